"""PruneVid by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip, of_angles
from torch.testing import assert_close

from holitom.errors import SettingsError
from holitom.methods import PruneVid
from holitom.methods.prunevid import longest_runs, pair_similarity


def test_mean_similarity_over_all_pairs() -> None:
    features = of_angles([[0, 0], [60, 0], [90, 0], [7, 7]]).features
    found = pair_similarity(features, np.array([0, 3]), np.array([3, 1]))
    # cos 60, cos 90 and cos 30, their mean
    assert_close(found[0], torch.tensor([(0.5 + 0 + 0.8660254) / 3, 1.0]))
    assert found[1].tolist() == [-float("inf")] * 2


def test_two_scenes() -> None:
    """Six frames near 0 degrees, then two near 180: `int(8 / 4)` clusters of frames."""
    scene = [[0.0, 0.0], [0.0, 90.0]] * 3 + [[180.0, 180.0]] * 2
    video = of_angles(scene)
    merged = PruneVid(1.0).merge(video)
    assert merged.segments == [(0, 5), (6, 7)]
    # Position 0 is static in both; position 1 flips in the first by 90 degrees (6 of 15 pairs alike), and is
    # static in the second: 1 + 6 + 2 tokens are left.
    assert merged.stages == {"temporal": 9, "spatial": 9}
    places = list(zip(merged.frame.tolist(), merged.position.tolist(), merged.size.tolist(), strict=True))
    assert places == [(0, 0, 6), *[(t, 1, 1) for t in range(6)], (6, 0, 2), (6, 1, 2)]
    assert_close(merged.features[0], torch.tensor([1.0, 0.0]))
    assert_close(merged.features[2], torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)


def segments_of(labels: str) -> list[tuple[int, int]]:
    return longest_runs(np.array([ord(label) for label in labels]))


def test_only_the_longest_runs_of_a_cluster_of_frames_stay() -> None:
    assert segments_of("aaabbb") == [(0, 2), (3, 5)]
    assert segments_of("aabba") == [(0, 1), (2, 4)]  # the last a joins the only run beside it
    assert segments_of("aaabaabb") == [(0, 5), (6, 7)]  # "baa" closes up with the longer run, "aaa"
    assert segments_of("aabaa") == [(0, 4)]  # two longest runs, and the gap between them
    assert segments_of("aacbb") == [(0, 2), (3, 4)]  # of equals the left
    assert segments_of("aacbbb") == [(0, 1), (2, 5)]
    assert segments_of("caa") == [(0, 2)]
    assert segments_of("abcd") == segments_of("aaaa") == [(0, 3)]  # none has a run
    assert segments_of("a") == [(0, 0)]
    # What closed one gap counts for the next: "bccc" is as long as "eeee".
    assert segments_of("aabcccdeeee") == [(0, 1), (2, 6), (7, 10)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24))
@settings(deadline=None)
def test_segments_cover_every_frame_once(labels: list[int]) -> None:
    found = longest_runs(np.array(labels))
    assert [t for first, last in found for t in range(first, last + 1)] == list(range(len(labels)))
    assert longest_runs(np.repeat(np.arange(len(found)), [b - a + 1 for a, b in found])) == found or any(
        a == b for a, b in found
    )


def test_density_is_over_seven_neighbours_whatever_the_budget() -> None:
    """Two pairs of twins, and a heap of seven a little wider: with two neighbours, twins are densest."""
    heap = [0.0, 6, 12, 18, 24, 30, 36]
    video = of_angles([[*heap, 120, 120.5, 240, 240.5]])
    merged = PruneVid(1 / 11).merge(video)
    assert merged.position.tolist() == [3]  # the middle of the heap
    assert PruneVid(1 / 11, knn=2).merge(video).position.tolist() != [3]


def test_clusters_become_their_means() -> None:
    """One frame: nothing is static, and its tokens fall into two heaps."""
    video = of_angles([[0, 4, 8, 90, 94]])
    merged = PruneVid(0.4).merge(video)
    assert merged.size.tolist() == [3, 2]
    assert_close(merged.features, torch.stack([video.features[0, :3].mean(0), video.features[0, 3:].mean(0)]))


def test_the_budget_is_met_after_averaging() -> None:
    for change in (0.0, 0.2, 1.0):
        merged = PruneVid(0.1).merge(clip(16, 20, change=change))
        assert len(merged.features) == min(32, merged.stages["temporal"])


@pytest.mark.parametrize(("field", "value"), [("segment_ratio", 0), ("similarity_threshold", -2), ("knn", 0)])
def test_settings(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=field):
        PruneVid(**{field: value})
