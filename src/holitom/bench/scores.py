"""Scores of answers: exact match by task, cost of the prefill, and bootstrap intervals."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holitom.bench.answers import Answers, identity
from holitom.bench.machine import hardware
from holitom.bench.moving_digits import TASKS
from holitom.bench.questions import FRAMES, Item
from holitom.bench.settings import Setting
from holitom.costs.decoder import Decoder

RESAMPLES = 10_000
LEVEL = 0.95

Floats = NDArray[np.float64]


def resampled_averages(
    right: NDArray[np.bool_], tasks: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Resample the average accuracies of `S` settings by paired bootstrap.

    In every resample each task's questions are drawn with replacement, as many as there are, and the same for
    all settings. The average gives every task the same weight.

    Args:
        right: `[S, Q]` bool: whether a setting's answer to a question is right.
        tasks: the task of each question.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        `[S, resamples]`.
    """
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(tasks))
    total = np.zeros((len(right), resamples))
    for name in names:
        own = right[:, np.array(tasks) == name].astype(np.float64)
        count = own.shape[1]
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        total += own @ drawn.T / count
    averages: Floats = total / len(names)
    return averages


def interval(values: Floats) -> list[float]:
    """Lower and upper end of the middle 95% of `values`."""
    tail = (1 - LEVEL) / 2
    return [float(value) for value in np.quantile(values, [tail, 1 - tail])]


def prefill_operations(answers: Answers, decoder: Decoder) -> float:
    """Prefill cost by the paper's formula, of the visual tokens in each layer, mean over the questions."""
    cost = {levels: decoder.prefill(levels) for levels in {answer.levels for answer in answers.done}}
    return float(np.mean([cost[answer.levels] for answer in answers.done]))


def results(
    model: Any,
    name: str,
    items: Sequence[Item],
    settings: Sequence[Setting],
    files: Sequence[Answers],
    quick: bool,
    frames: int = FRAMES,
) -> dict[str, Any]:
    """Compute the contents of `results.json`.

    Args:
        model: the model that answered.
        name: the model's name.
        items: the questions.
        settings: all settings, full tokens first.
        files: the answers of the settings that are not refused, in the same order.
        quick: whether the run was `--quick`.
        frames: number of frames of the videos.
    """
    decoder = Decoder.of(model.config)
    tasks = [item.task for item in items]
    names = [task for task in TASKS if task in tasks]
    right = np.array([[a.said == i.answer for a, i in zip(f.done, items, strict=True)] for f in files])
    averages = resampled_averages(right, tasks)
    by_task = np.array([[row[np.array(tasks) == task].mean() for task in names] for row in right])
    average = by_task.mean(1)
    full_tokens, full_operations = _tokens(files[0]), prefill_operations(files[0], decoder)

    def figures(index: int, file: Answers) -> dict[str, Any]:
        operations, tokens = prefill_operations(file, decoder), _tokens(file)
        return {
            "visual_tokens": tokens,
            "visual_tokens_share": tokens / full_tokens,
            "visual_tokens_by_layer": _levels(file),
            "prefill_operations": operations,
            "prefill_share": operations / full_operations,
            "tasks": dict(zip(names, by_task[index].tolist(), strict=True)),
            "average": float(average[index]),
            "average_interval": interval(averages[index]),
            "difference": float(average[index] - average[0]),
            "difference_interval": interval(averages[index] - averages[0]),
            # Shares of full tokens' accuracy are undefined where that is 0.
            "of_full": float(average[index] / average[0]) if averages[0].all() else None,
            "of_full_interval": interval(averages[index] / averages[0]) if averages[0].all() else None,
        }

    done = iter([figures(index, file) for index, file in enumerate(files)])
    mark = identity(model, items)
    return {
        "benchmark": "MovingDigits-QA",
        "quick": quick,
        "machine": hardware(model.device),
        "versions": {**mark["versions"], "python": platform.python_version()},
        "model": {"name": name, "fingerprint": mark["model"], "dtype": mark["dtype"], **decoder.to_dict()},
        "questions": {
            "count": len(items),
            "by_task": {task: tasks.count(task) for task in names},
            "videos": len({item.video for item in items}),
            "frames": frames,
            "fingerprint": mark["questions"],
        },
        "bootstrap": {"resamples": RESAMPLES, "seed": 0, "level": LEVEL},
        "settings": [
            {
                "name": setting.name,
                "label": setting.label,
                "title": setting.title,
                "retain_ratio": setting.retain_ratio,
                "method": repr(setting.method) if setting.method else None,
                "refused": setting.refused,
                **({} if setting.refused else next(done)),
            }
            for setting in settings
        ],
    }


def _tokens(file: Answers) -> float:
    return float(np.mean([answer.levels[0].tokens for answer in file.done]))


def _levels(file: Answers) -> list[dict[str, float]]:
    """Mean visual tokens, from each layer on at which the number changes for some question."""
    starts = sorted({level.start for answer in file.done for level in answer.levels})
    return [
        {
            "start": start,
            "tokens": float(
                np.mean([[x.tokens for x in answer.levels if x.start <= start][-1] for answer in file.done])
            ),
        }
        for start in starts
    ]
