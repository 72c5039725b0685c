"""A user's own videos and questions, answered with full and with merged tokens: what did merging change?

    questions (JSONL) -> one record a question in a file of results (JSONL) -> summary

Results are appended as they come, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import statistics
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from holitom.ask import Answer, ask, prompt
from holitom.bundled import DEMO_QUESTION, DEMO_VIDEO, check_question
from holitom.errors import HolitomError, OutputError, SettingsError
from holitom.methods.base import Method
from holitom.video import Fit, Sampling, Video, load_sampled
from holitom.video.fitting import fit_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One question about one video.

    Attributes:
        video: the file.
        question: about it.
        answer: the right one, where it is known.
    """

    video: Path
    question: str
    answer: str | None = None


def read_cases(path: Path) -> list[Case]:
    """The questions in a JSONL file: an object with `video`, `question` and maybe `answer` on each line.

    A relative `video` is looked for beside the file.

    Raises:
        SettingsError: the file cannot be read, or a line is not written so (the message says which).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not valid UTF-8; it must be a JSONL file of questions") from error
    cases = [
        _case(f"{path}, line {number}", line, path.parent)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not cases:
        raise SettingsError(
            f'{path}: no questions; a line is {{"video": "a.mp4", "question": "What happens?"}}'
        )
    return cases


def _case(where: str, line: str, folder: Path) -> Case:
    example = 'an object such as {"video": "a.mp4", "question": "What happens?", "answer": "..."}'
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{where}: no JSON; it must be {example}") from error
    if not isinstance(given, dict):
        raise SettingsError(f"{where}: it must be {example}")
    for name in ("video", "question"):
        if not isinstance(given.get(name), str):
            raise SettingsError(f'{where}: "{name}" is missing or no text; it must be {example}')
    if not isinstance(given.get("answer"), str | None):
        raise SettingsError(f'{where}: "answer" is no text; leave it out where none is known')
    try:
        check_question(given["question"])
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    video = folder / given["video"]
    if not video.is_file():
        raise SettingsError(f"{where}: {video}: no such file")
    return Case(video, given["question"], given.get("answer"))


class Results:
    """The file of results: its first line says how the answers were made, the others are one a question.

    Args:
        path: of the file.
        made: how the answers are made; a file that was made otherwise is refused.
        cases: all questions.

    Raises:
        SettingsError: the file was made otherwise, from other questions, or is no such file.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, made: Mapping[str, Any], cases: Sequence[Case]) -> None:
        self.path, self.cases = path, cases
        self.records: dict[int, Record] = {}
        head = json.dumps({"holitom compare": made})
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
            if not whole:
                path.write_text(head + "\n", encoding="utf-8")
                return
            if whole != text:
                path.write_text(whole, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        first, *lines = whole.splitlines()
        if first != head:
            raise SettingsError(
                f"{path} holds the answers of other settings, or none; remove it, or name another by --output"
            )
        for number, line in enumerate(lines, 2):
            try:
                record = json.loads(line)
                index = int(record["index"])
            except (ValueError, KeyError, TypeError) as error:
                raise SettingsError(f"{path}, line {number}: no answer of this command; remove it") from error
            if index >= len(cases) or record.get("asked") != _asked(cases[index]):
                raise SettingsError(
                    f"{path} holds the answers to other questions; remove it, or name another by --output"
                )
            self.records[index] = record

    @property
    def open(self) -> list[int]:
        """Which questions are still to be answered; those that failed are tried again."""
        return [i for i in range(len(self.cases)) if "error" in self.records.get(i, {"error": ""})]

    def add(self, index: int, found: Record) -> None:
        """Append what was found for one question."""
        record = {"index": index, "asked": _asked(self.cases[index]), **found}
        self.records[index] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _asked(case: Case) -> Record:
    return {**asdict(case), "video": str(case.video)}


def compare(
    model: Any,
    processor: Any,
    results: Results,
    method: Method,
    frames: int,
    max_new_tokens: int = 64,
    notify: Callable[[int], None] = lambda index: None,
) -> None:
    """Answer what is still open in `results` with full tokens and by `method`.

    Which of the two runs first changes from question to question. A video that cannot be read, or a question
    that the model cannot be asked, is an error in its record and stops nothing.

    Args:
        model: a live model.
        processor: its own.
        results: where the answers go.
        method: that merges.
        frames: to sample from each video.
        max_new_tokens: longest answer.
        notify: called with the number of each question that is done.

    Raises:
        HolitomError: the method cannot merge for this model at all.
    """
    open_cases = results.open
    if not open_cases:
        return
    runs = {"full": Method(retain_ratio=1), "merged": method}
    demo = prompt(processor, DEMO_VIDEO, DEMO_QUESTION, frames=frames)
    for how in runs.values():  # what a first run pays for memory and caches must not be timed
        ask(model, processor, demo, how, max_new_tokens=2)
    videos = _Last(fit_of(processor))
    for index in open_cases:
        case = results.cases[index]
        try:
            inputs = prompt(processor, videos.load(case.video, frames), case.question)
            order = list(runs) if index % 2 == 0 else list(runs)[::-1]
            found = {name: ask(model, processor, inputs, runs[name], max_new_tokens) for name in order}
            results.add(index, _record(found["full"], found["merged"], case))
        except HolitomError as error:
            results.add(index, {"error": str(error)})
        except torch.OutOfMemoryError:
            results.add(index, {"error": "there is not enough memory for it: take fewer frames"})
        notify(index)


class _Last:
    """The last video that was read: questions about one video often follow one another."""

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        self._key: tuple[Path, int] | None = None
        self._video: Video | None = None

    def load(self, path: Path, frames: int) -> Video:
        if self._video is None or self._key != (path, frames):
            self._video = load_sampled(path, Sampling(frames), fit=self._fit)
            self._key = path, frames
        return self._video


def _record(full: Answer, merged: Answer, case: Case) -> Record:
    found: Record = {
        "full": full.to_dict(),
        "merged": merged.to_dict(),
        "same": alike(full.text, merged.text),
    }
    if case.answer is not None:
        found["right"] = {
            name: alike(answer.text, case.answer) for name, answer in (("full", full), ("merged", merged))
        }
    return found


def alike(one: str, other: str) -> bool:
    """Whether two answers say the same but for case, white space and punctuation around words."""

    def plain(text: str) -> list[str]:
        return [word for word in (part.strip(string.punctuation) for part in text.casefold().split()) if word]

    return plain(one) == plain(other)


def summary(results: Results) -> dict[str, Any]:
    """Agreement, accuracy where right answers are known, tokens, times, and the questions that differ.

    Shares are in 0..1, means over the answered questions; `ttft_ratio` is the median, over the questions, of
    full over merged. None: there is nothing to count.
    """
    answered = [record for record in results.records.values() if "error" not in record]
    judged = [record["right"] for record in answered if "right" in record]

    def mean(run: str, field: str) -> float | None:
        values = [record[run][field] for record in answered]
        return statistics.fmean(values) if values else None

    def both(field: str) -> dict[str, float | None]:
        return {run: mean(run, field) for run in ("full", "merged")}

    def share(count: int, of: int) -> float | None:
        return count / of if of else None

    ratios = [record["full"]["ttft_seconds"] / record["merged"]["ttft_seconds"] for record in answered]
    return {
        "questions": len(results.cases),
        "answered": len(answered),
        "same": sum(record["same"] for record in answered),
        "agreement": share(sum(record["same"] for record in answered), len(answered)),
        "right": {
            "judged": len(judged),
            "full": share(sum(right["full"] for right in judged), len(judged)),
            "merged": share(sum(right["merged"] for right in judged), len(judged)),
            "lost": sum(right["full"] and not right["merged"] for right in judged),
            "won": sum(right["merged"] and not right["full"] for right in judged),
        },
        "visual_tokens": {**both("visual_tokens"), "remaining": mean("merged", "visual_tokens_remaining")},
        "ttft_seconds": both("ttft_seconds"),
        "ttft_ratio": statistics.median(ratios) if ratios else None,
        "kv_cache_bytes": both("kv_cache_bytes"),
        "differences": list(_differences(results)),
        "errors": [
            {**_asked(results.cases[index]), "error": record["error"]}
            for index, record in sorted(results.records.items())
            if "error" in record
        ],
    }


def _differences(results: Results) -> Iterator[Record]:
    for index, record in sorted(results.records.items()):
        if "error" in record or record["same"]:
            continue
        said = {run: record[run]["answer"] for run in ("full", "merged")}
        yield {"index": index, **_asked(results.cases[index]), "said": said}
