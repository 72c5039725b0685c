"""A user's own videos and questions, answered with full and with merged tokens: what did merging change?

    questions (JSONL) -> one record a question in a file of results (JSONL) -> summary

Results are appended as they come, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import statistics
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from holitom.ask import Answer, ask, prompt
from holitom.bench.cases import Case, Record, Results, asked
from holitom.bundled import DEMO_QUESTION, DEMO_VIDEO
from holitom.errors import HolitomError
from holitom.methods.base import Method
from holitom.video import Fit, Sampling, Video, load_sampled
from holitom.video.fitting import fit_of


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
            {**asked(results.cases[index]), "error": record["error"]}
            for index, record in sorted(results.records.items())
            if "error" in record
        ],
    }


def _differences(results: Results) -> Iterator[Record]:
    for index, record in sorted(results.records.items()):
        if "error" in record or record["same"]:
            continue
        said = {run: record[run]["answer"] for run in ("full", "merged")}
        yield {"index": index, **asked(results.cases[index]), "said": said}
