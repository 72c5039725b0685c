"""Accuracy on MovingDigits-QA: what a model still answers when its visual tokens are merged.

Every setting (full tokens, or one method at one budget) answers the same held-out questions through the
stock processor and `generate`. Answers are appended to one file a setting as they come, so that a killed
run goes on where it was; a file from another model, question set or setting is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import HolitomError
from ..methods.base import Method
from . import moving_digits as md

FRAMES = 16
MAX_NEW_TOKENS = 4


class ResultsError(HolitomError, ValueError):
    """A results file belongs to another model, question set or setting."""


class Item(NamedTuple):
    """One held-out question: sample `video` of the test split and what is asked of it."""

    video: int
    task: str
    text: str
    answer: str


@dataclass(frozen=True)
class Setting:
    """What is run: a label for the table and a method, or None for full tokens."""

    label: str
    method: Method | None

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.label.lower()).strip("-")


@dataclass(frozen=True)
class Outcome:
    """A setting's answers. `right[i]` says whether question `i` was answered exactly; `tokens[i]` are the
    visual tokens that entered the language model for it."""

    setting: Setting
    tasks: tuple[str, ...]
    right: np.ndarray[Any, np.dtype[np.bool_]]
    tokens: np.ndarray[Any, np.dtype[np.int64]]

    def of_task(self, task: str) -> float:
        return float(self.right[np.array(self.tasks) == task].mean())

    @property
    def average(self) -> float:
        """Mean over tasks, each weighing the same."""
        return float(np.mean([self.of_task(t) for t in dict.fromkeys(self.tasks)]))


def held_out_questions(per_task: int) -> list[Item]:
    """The first `per_task` questions of every task: at most one a task from each video of the test split."""
    items: list[Item] = []
    missing = dict.fromkeys(md.TASKS, per_task)
    index = 0
    while any(missing.values()):
        asked: dict[str, list[md.Question]] = {}
        for question in md.sample("test", index, FRAMES).questions:
            asked.setdefault(question.task, []).append(question)
        rng = np.random.default_rng([53, index])
        for task, choices in asked.items():
            chosen = choices[int(rng.integers(len(choices)))]
            if missing[task]:
                missing[task] -= 1
                items.append(Item(index, *chosen))
        index += 1
    return items


def prompt(processor: Any, text: str) -> str:
    """The chat template's prompt for one video and one question."""
    content = [{"type": "video"}, {"type": "text", "text": text}]
    rendered: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return rendered


def answers(
    model: Any, processor: Any, items: Sequence[Item], method: Method | None, batch: int
) -> Iterator[list[tuple[str, int]]]:
    """Answer `items` in order, `batch` at a time: `(answer, visual tokens)` for each."""
    video_id = model.config.video_token_id
    with method(model) if method else nullcontext() as run:
        for start in range(0, len(items), batch):
            rows = items[start : start + batch]
            inputs = processor(
                text=[prompt(processor, row.text) for row in rows],
                videos=[md.sample("test", row.video, FRAMES).frames for row in rows],
                return_tensors="pt",
                padding=True,
            ).to(model.device, model.dtype)
            out = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
            said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            if run is None:
                tokens = (inputs["input_ids"] == video_id).sum(1).tolist()
            else:
                assert run.last is not None, "every row holds a video"
                tokens = [video.sent for video in run.last.videos]
            yield [(s.strip(), int(n)) for s, n in zip(said, tokens, strict=True)]


def fingerprint(model: Any, items: Sequence[Item], setting: Setting) -> dict[str, str]:
    """What a results file must agree on before it is continued."""
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(value.detach().float().sum().double().cpu().numpy().tobytes())
    asked = hashlib.sha256(json.dumps(items).encode()).hexdigest()[:16]
    return {
        "model": weights.hexdigest()[:16],
        "questions": asked,
        "setting": repr(setting.method),
        "dtype": str(model.dtype),
    }


def evaluate(
    model: Any,
    processor: Any,
    setting: Setting,
    items: Sequence[Item],
    folder: Path,
    batch: int = 14,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Answer every item under one setting, resuming `folder/<setting>.jsonl`.

    Raises:
        ResultsError: if that file was written by another model, question set or setting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{setting.slug}.jsonl"
    mark = fingerprint(model, items, setting)
    done: list[tuple[str, int]] = []
    if path.exists():
        whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if whole and json.loads(whole[0]) != mark:
            raise ResultsError(
                f"{path} holds results of another run ({whole[0].strip()}, now {mark}): remove it"
            )
        done = [tuple(json.loads(line)) for line in whole[1:]]
        path.write_text("".join(whole))  # a killed run may leave half a line
    if not done:
        path.write_text(json.dumps(mark) + "\n")
    progress(len(done))
    with torch.inference_mode():
        for said in answers(model, processor, items[len(done) :], setting.method, batch):
            done += said
            with path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in said)
            progress(len(said))
    right = np.array([said == item.answer for (said, _), item in zip(done, items, strict=True)])
    tokens = np.array([n for _, n in done])
    return Outcome(setting, tuple(item.task for item in items), right, tokens)
