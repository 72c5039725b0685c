"""Answer a user's own questions about videos with full and with merged tokens, and compare the answers.

    questions (JSONL) -> one record for each question in a file of results (JSONL) -> summary

Results are appended to the file, so that a run that was stopped can continue.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from unicodedata import category

import torch

from holitom.ask import Answer, ask, prompt
from holitom.bench.cases import Case, Record, Results, asked
from holitom.bundled import DEMO_QUESTION, DEMO_VIDEO
from holitom.errors import HolitomError
from holitom.methods.base import Method
from holitom.video import Sampling, Video, load_sampled
from holitom.video.fitting import fit_of


def compare(
    model: Any,
    processor: Any,
    results: Results,
    method: Method,
    sampling: Sampling,
    max_new_tokens: int = 64,
    notify: Callable[[int], None] = lambda index: None,
) -> None:
    """Answer the open questions of `results` with full tokens and with `method`.

    The order of the two runs alternates from question to question. An error at one question (a video that
    cannot be read, say) goes into its record, and the next question follows.

    Args:
        model: a model without an attached method.
        processor: the model's processor.
        results: the file that records are appended to.
        method: the method that merges.
        sampling: the frames to sample from each video.
        max_new_tokens: longest answer, in tokens.
        notify: called with the index of each question that is done.

    Raises:
        HolitomError: the method does not work with this model.
    """
    open_cases = results.open
    if not open_cases:
        return
    runs = {"full": Method(retain_ratio=1), "merged": method}
    demo = prompt(processor, DEMO_VIDEO, DEMO_QUESTION, frames=sampling.frames)
    for how in runs.values():  # a first run is slower, since it allocates memory, so it is not timed
        ask(model, processor, demo, how, max_new_tokens=2)
    fit = fit_of(processor)

    @lru_cache(1)  # questions about one video often follow one another
    def load(path: Path) -> Video:
        return load_sampled(path, sampling, fit=fit)

    for index in open_cases:
        case = results.cases[index]
        try:
            inputs = prompt(processor, load(case.video), case.question)
            order = list(runs) if index % 2 == 0 else list(runs)[::-1]
            found = {name: ask(model, processor, inputs, runs[name], max_new_tokens) for name in order}
            results.add(index, _record(found["full"], found["merged"], case))
        except HolitomError as error:
            results.add(index, {"error": str(error)})
        except torch.OutOfMemoryError:
            results.add(index, {"error": "not enough memory for this question; sample fewer frames"})
        notify(index)


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
    """Whether two answers are the same apart from case, white space and punctuation around words.

    What makes another number of one (-5, .5, 5%) is no punctuation, and neither is an answer of nothing else.
    """
    return _words(one) == _words(other)


def _words(text: str) -> list[str]:
    parts = text.casefold().split()
    return [word for word in map(_bare, parts) if word] or parts


def _bare(word: str) -> str:
    """A word without punctuation around it."""
    marks = [category(sign).startswith("P") or sign == "`" for sign in word]
    if all(marks):
        return ""
    first, end = marks.index(False), len(marks) - marks[::-1].index(False)
    if word[first].isdigit():
        first -= word[:first].endswith(".")
        first -= word[:first].endswith("-")
    if word[end - 1].isdigit():
        end += word[end:].startswith("%")
    return word[first:end]


def summary(results: Results) -> dict[str, Any]:
    """Summarise agreement, accuracy where right answers are known, tokens, times, and differing answers.

    Shares are in 0..1, and means are over the answered questions. `ttft_ratio` is the median over the
    questions of full over merged. A figure is None where it is over no question.
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
