"""A video is cut where the most tokens can be pruned: provably, not approximately."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holitom.ops.segmentation import (
    best_segments,
    neighbour_similarity,
    segments_between,
    static_counts,
    static_until,
)

Segments = list[tuple[int, int]]


def prunable(static: np.ndarray, first: int, last: int) -> int:
    """`P(i, j)` as it is defined."""
    return (last - first) * int(static[first:last].all(axis=0).sum()) if last > first else 0


def partitions(frames: int) -> list[Segments]:
    cuts = range(1, frames)
    found = []
    for count in range(frames):
        for chosen in combinations(cuts, count):
            edges = [0, *chosen, frames]
            found.append([(a, b - 1) for a, b in pairwise(edges)])
    return found


def by_definition(static: np.ndarray) -> Segments:
    """The recursion with its tie rule, straight from the definition."""
    frames = len(static) + 1
    best: list[tuple[int, Segments]] = [(0, [])]
    for end in range(1, frames + 1):
        options = []
        for length in range(1, end + 1):
            value, segments = best[end - length]
            gain = prunable(static, end - length, end - 1)
            options.append((value + gain, [*segments, (end - length, end - 1)]))
        best.append(max(options, key=lambda option: option[0]))  # max keeps the first of equals
    return best[frames][1]


def segment(static: np.ndarray) -> tuple[Segments, int]:
    return best_segments(static_counts(static_until(torch.from_numpy(static))))


def test_prunes_as_much_as_the_best_of_all_partitions() -> None:
    rng = np.random.default_rng(0)
    every = {frames: partitions(frames) for frames in range(1, 8)}
    for _ in range(3000):
        frames, tokens = int(rng.integers(1, 8)), int(rng.integers(1, 7))
        static = rng.random((frames - 1, tokens)) < rng.random()
        gain = {(i, j): prunable(static, i, j) for i in range(frames) for j in range(i, frames)}
        segments, pruned = segment(static)
        assert pruned == max(sum(gain[s] for s in partition) for partition in every[frames])
        assert pruned == sum(gain[s] for s in segments)
        assert segments == by_definition(static)


def test_counts_positions_static_throughout_every_span() -> None:
    static = np.random.default_rng(1).random((9, 12)) < 0.7
    counts = static_counts(static_until(torch.from_numpy(static)))
    for i in range(10):
        for j in range(i, 10):
            assert counts[i, j] == static[i:j].all(axis=0).sum()


@pytest.mark.parametrize(("static", "segments"), [(True, [(0, 4)]), (False, [(t, t) for t in range(5)])])
def test_extremes(static: bool, segments: Segments) -> None:
    found, pruned = segment(np.full((4, 3), static))
    assert found == segments
    assert pruned == (12 if static else 0)


def test_one_frame_is_one_segment() -> None:
    assert segment(np.ones((0, 3), dtype=bool)) == ([(0, 0)], 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_similarity_is_the_cosine_of_neighbours_in_float32(dtype: torch.dtype) -> None:
    features = torch.randn(7, 5, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = F.cosine_similarity(features[:-1].double(), features[1:].double(), dim=-1)
    similarity = neighbour_similarity(features)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity.double(), expected, atol=1e-6, rtol=0)
    transposed = features.transpose(0, 1).contiguous().transpose(0, 1)  # the same, laid out differently
    torch.testing.assert_close(neighbour_similarity(transposed), similarity, atol=1e-6, rtol=0)


def test_black_frames_are_similar_to_nothing() -> None:
    assert neighbour_similarity(torch.zeros(3, 2, 4)).tolist() == [[0, 0], [0, 0]]


def test_segments_between_cuts() -> None:
    assert segments_between(np.array([False, True, True, False])) == [(0, 1), (2, 2), (3, 4)]
    assert segments_between(np.array([], dtype=bool)) == [(0, 0)]
    assert segments_between(np.array([True])) == [(0, 0), (1, 1)]
