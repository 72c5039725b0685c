"""Adaptive keyframe sampling by hand, and what is new in thumbnails."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from holitom.ops.frame_choice import choose_frames, novelty


def test_scores_that_stand_out_are_taken_together() -> None:
    scores = np.zeros(64)
    scores[[5, 40]] = 1
    # The two best are 1 above a mean of 1/32: final at once.
    assert choose_frames(scores, 2) == [5, 40]


def test_even_scores_are_spread() -> None:
    assert choose_frames(np.zeros(64), 32) == list(range(0, 64, 2))
    assert choose_frames(np.zeros(64), 8) == []  # 8 / 2^5 of each of 32 spans is none
    assert choose_frames(np.zeros(64), 8, max_depth=3) == list(range(0, 64, 8))


def test_a_half_that_stands_out_gives_its_best() -> None:
    scores = np.concatenate([np.linspace(0, 0.1, 8), np.zeros(8)])
    scores[3] = 1
    # The whole: best 2 mean 0.55; the first half after one halving: 0.55 - 0.17; below 0.3 nowhere but there.
    chosen = choose_frames(scores, 2, threshold=0.3, max_depth=1)
    assert 3 in chosen


@given(
    st.lists(st.one_of(st.floats(0, 1), st.just(math.nan), st.just(math.inf)), max_size=90),
    st.integers(1, 70),
    st.floats(0, 1),
    st.integers(0, 6),
)
def test_what_is_chosen_is_there_once(scores: list[float], count: int, threshold: float, depth: int) -> None:
    chosen = choose_frames(scores, count, threshold=threshold, max_depth=depth)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= count
    assert all(0 <= frame < len(scores) for frame in chosen)
    if len(scores) < count:
        assert chosen == list(range(len(scores)))


def test_novelty_is_where_the_picture_changes() -> None:
    frames = np.zeros((6, 40, 30, 3), dtype=np.uint8)
    frames[3:] = 255
    assert novelty(frames).tolist() == [0.2, 0, 0, 1, 0, 0]
    frames[5, :20] = 0
    assert novelty(frames)[5] == 0.5
    assert novelty(frames[:1]).tolist() == [0]
    assert novelty(frames[:, :3, :2]).shape == (6,)  # smaller than a thumbnail
