"""`holitom bench serve` without a server: its files, and the videos and questions of its load."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from holitom.bench.serve import FollowUps, Load, Measured, Row, ServingError
from holitom.bench.video_load import seeded
from holitom.cli.serve import _print

ROW = Row(math.inf, 100.0, 120.0, 5.0, 2.0, 30.0, 0.5, 111.0, 300)


class Dataset:
    """What vLLM's dataset has: one generator of random numbers for questions and videos."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def video(self, size: int) -> list[int]:
        drawn: list[int] = self._rng.integers(0, 256, size).tolist()
        return drawn


def drawn(videos: int, questions: int) -> tuple[list[list[int]], list[int]]:
    """Three videos and the questions drawn between them."""
    dataset, draw = Dataset(questions), seeded(Dataset.video, videos)
    pairs: list[Any] = [(draw(dataset, 20), int(dataset._rng.integers(10**9))) for _ in range(3)]
    return [video for video, _ in pairs], [question for _, question in pairs]


def test_another_question_is_about_the_same_video() -> None:
    videos, questions = drawn(7, 0)
    again, others = drawn(7, 1)
    assert again == videos
    assert not set(others) & set(questions)
    assert drawn(7, 0)[1] == questions
    assert all(one != other for one, other in zip(drawn(8, 0)[0], videos, strict=True))
    assert videos[0] != videos[1] != videos[2]


@pytest.mark.parametrize("asked", [None, FollowUps(20.0, 25.0, 0.2, 0.7)])
def test_a_file_of_figures_reads_as_it_was_written(asked: FollowUps | None) -> None:
    measured = Measured("http://127.0.0.1:1", "digits", Load(), [replace(ROW, follow_ups=asked)])
    assert Measured.from_json(measured.to_json()) == measured


@pytest.mark.parametrize("follow_ups", [{"ttft": 1}, 3])
def test_a_file_of_something_else_is_refused(follow_ups: Any) -> None:
    written = json.loads(Measured("u", "m", Load(), [ROW]).to_json())
    written["rows"][0]["follow_ups"] = follow_ups
    with pytest.raises(ServingError, match="--save"):
        Measured.from_json(json.dumps(written))


def test_follow_ups_are_printed_beside_the_first_questions(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Measured("u", "m", Load(), [replace(ROW, follow_ups=FollowUps(20.0, 25.0, 0.2, 0.7))])
    _print(asked, None, "merged", "full tokens")
    alone = capsys.readouterr().out
    assert all(text in alone for text in ("follow-up TTFT", "100 ms", "20 ms", "20% of it", "70%"))
    _print(asked, asked, "merged", "full tokens")
    assert capsys.readouterr().out.count("20% of it") == 2
    _print(Measured("u", "m", Load(), [ROW]), None, "merged", "full tokens")
    assert "follow-up" not in capsys.readouterr().out
