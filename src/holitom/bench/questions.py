"""The held-out questions of MovingDigits-QA that accuracy is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from holitom.bench import moving_digits as md
from holitom.errors import SettingsError
from holitom.methods.base import require

FRAMES = 16


class Item(NamedTuple):
    """One held-out question: sample `video` of the test split and what is asked of it."""

    video: int
    task: str
    text: str
    answer: str


def held_out_questions(per_task: int, tasks: Sequence[str] = md.TASKS, first_video: int = 0) -> list[Item]:
    """The first `per_task` questions of each of `tasks` in the test split, at most one a task from a video.

    A video's questions stand together, and are the same whatever else is asked.

    Args:
        per_task: how many.
        tasks: of `moving_digits.TASKS`.
        first_video: where in the split they begin. The benchmark's begin at 0; what is developed is tried on
            others.

    Raises:
        SettingsError: there is no such task, `per_task` is less than 1 or `first_video` less than 0.
    """
    require("per_task", per_task, "a whole number from 1 up", lambda n: n >= 1, whole=True)
    require("first_video", first_video, "a whole number from 0 up", lambda n: n >= 0, whole=True)
    for task in tasks:
        if task not in md.TASKS:
            raise SettingsError(f"unknown task {task!r}; known: {', '.join(md.TASKS)}")
    items: list[Item] = []
    missing = dict.fromkeys(tasks, per_task)
    index = first_video
    while any(missing.values()):
        asked: dict[str, list[md.Question]] = {}
        for question in md.sample("test", index, FRAMES).questions:
            asked.setdefault(question.task, []).append(question)
        rng = np.random.default_rng([53, index])
        for task, choices in asked.items():
            chosen = choices[int(rng.integers(len(choices)))]
            if missing.get(task):
                missing[task] -= 1
                items.append(Item(index, *chosen))
        index += 1
    return items


def batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """`items` in order, cut behind the first video that brings a batch to `size` questions."""
    found: list[list[Item]] = [[]]
    for _, of_video in groupby(items, key=lambda item: item.video):
        if len(found[-1]) >= size:
            found.append([])
        found[-1] += of_video
    return found
