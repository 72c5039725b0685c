"""Held-out questions of MovingDigits-QA, on which accuracy is measured."""

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
    """One held-out question.

    Attributes:
        video: number of the sample in its split.
        task: a name in `moving_digits.TASKS`.
        text: the question.
        answer: the right answer.
    """

    video: int
    task: str
    text: str
    answer: str


def held_out_questions(
    per_task: int,
    tasks: Sequence[str] = md.TASKS,
    first_video: int = 0,
    split: md.Split = "test",
    frames: int = FRAMES,
) -> list[Item]:
    """List the first `per_task` questions of each task in a split, at most one for a task and a video.

    A video's questions follow one another. Whether a question is chosen does not depend on other tasks.

    Args:
        per_task: number of questions of each task.
        tasks: names in `moving_digits.TASKS`.
        first_video: number of the first video. The benchmark begins at 0; methods under development are tried
            on others.
        split: split of the videos.
        frames: number of frames of each video.

    Raises:
        SettingsError: there is no such task, `per_task` is below 1 or `first_video` below 0.
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
        for question in md.sample(split, index, frames).questions:
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
    """Divide `items` into batches, each ending with the video that brings it to `size` questions."""
    found: list[list[Item]] = [[]]
    for _, of_video in groupby(items, key=lambda item: item.video):
        if len(found[-1]) >= size:
            found.append([])
        found[-1] += of_video
    return found
