"""FlashVID by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip, of_angles
from torch.testing import assert_close

from holitom.errors import SettingsError
from holitom.methods import FlashVID
from holitom.methods.flashvid import diverse, event_relevance, tree_roots


def picked(degrees: list[float], importance: list[float], count: int) -> list[int]:
    unit = of_angles([degrees]).features
    chosen = diverse(unit, torch.tensor([importance]), torch.tensor([[count]]), count)
    return chosen[0].nonzero().flatten().tolist()


def test_tokens_far_apart() -> None:
    degrees, even = [0.0, 5, 60, 70, 180], [1.0] * 5
    assert picked(degrees, even, 1) == [4]  # its nearest neighbour is 110 degrees away
    assert picked(degrees, even, 2) == [0, 4]  # 0 is farthest from 180
    assert picked(degrees, even, 3) == [0, 3, 4]  # 70 is 70 from 0, 110 from 180; 60 is 60 from 0
    # 1 - cos 60 = 0.5 from 0, and 1 - cos 70 = 0.66, halved 0.33
    assert picked(degrees, [1.0, 1, 1, 0.5, 1], 3) == [0, 2, 4]
    assert picked(degrees, [0.0] * 5, 2) == [0, 1]  # nothing to tell them apart


def test_frames_choose_as_many_as_each_may() -> None:
    unit = of_angles([[0, 5, 60, 70, 180]] * 3).features
    chosen = diverse(unit, torch.ones(3, 5), torch.tensor([[1], [3], [0]]), 3)
    assert [row.nonzero().flatten().tolist() for row in chosen] == [[4], [0, 3, 4], []]


def test_trees() -> None:
    unit = of_angles([[0, 90], [80, 10], [20, 200], [20, 0]]).features
    chosen = torch.zeros(4, 2, dtype=torch.bool)
    segment = torch.tensor([[0], [0], [0], [1]])
    # (1, 0) at 80 degrees links to 90, (1, 1) at 10 to 0; (2, 0) at 20 to 10 and so to the root 0; 200 links
    # to nothing, and the last frame begins a segment.
    assert tree_roots(unit, chosen, segment, 0.8).tolist() == [[0, 1], [1, 0], [0, 5], [6, 7]]
    chosen[1, 1] = True  # what is chosen is no link
    assert tree_roots(unit, chosen, segment, 0.8).tolist() == [[0, 1], [1, 3], [4, 5], [6, 7]]
    assert tree_roots(unit[:1], chosen[:1], segment[:1], 0.8).tolist() == [[0, 1]]


def test_a_still_video() -> None:
    features = of_angles([[0, 40, 80, 120]] * 4)
    # R = 0.5: 2 tokens a frame, ceil(0.7 * 2) = 2 of them diverse: nothing is left for the trees.
    merged = FlashVID(0.4, min_segments=1).merge(features)
    assert merged.segments == [(0, 3)]
    assert merged.size.tolist() == [1] * 8
    # With half of the budget for them, 4 tokens are; the others are 3 trees, of 4 frames each, at frame 0.
    merged = FlashVID(0.4, min_segments=1, diverse_ratio=0.5).merge(features)
    # They were one token short of the budget: the last of the equal links does not stand.
    assert merged.stages == {"trees": 8, "spatial": 8}
    assert torch.bincount(merged.frame).tolist() == [4, 1, 1, 2]
    assert merged.size.tolist() == [1, 4, 4, 3, 1, 1, 1, 1]
    trees = merged.size > 1
    assert_close(merged.features[trees], features.features[0, merged.position[trees]])


def test_links_that_the_budget_leaves_no_room_for() -> None:
    unit = of_angles([[0, 90], [20, 100], [30, 140], [30, 140]]).features
    chosen = torch.zeros(4, 2, dtype=torch.bool)
    segment = torch.tensor([[0], [0], [2], [2]])
    # Links: 20-0 and 100-90, the second the more similar; in the last two frames all are equal.
    most = [torch.tensor([[m], [m], [n], [n]]) for m, n in [(4, 4), (1, 1), (0, 2), (4, 0)]]
    found = [tree_roots(unit, chosen, segment, 0.8, each).flatten().tolist() for each in most]
    assert found == [
        [0, 1, 0, 1, 4, 5, 4, 5],
        [0, 1, 2, 1, 4, 5, 4, 7],  # of equals the first
        [0, 1, 2, 3, 4, 5, 4, 5],
        [0, 1, 0, 1, 4, 5, 6, 7],
    ]


def test_relevance_is_to_the_mean_of_the_segment() -> None:
    video = of_angles([[0, 90], [0, 180], [45, 45]])
    found = event_relevance(video.features, np.array([0, 2]), np.array([2, 1]))
    # Means (0.25, 0.25) and (cos 45, sin 45).
    assert_close(found, torch.tensor([[0.25, 0.25], [0.25, -0.25], [1.0, 1.0]]), atol=1e-6, rtol=0)
    # Far from the others and from the mean of all: without relevance the first choice, with it the last.
    outlier = of_angles([[0.0, 10, 20, 30, 150]], [[1.0] * 5])
    for event, position in [(False, 4), (True, 3)]:
        merged = FlashVID(0.2, expansion=1.0, event_relevance=event).merge(outlier)
        assert merged.position.tolist() == [position]


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.floats(0.01, 1),
    st.floats(1, 4),
    st.floats(0, 1),
    st.floats(-1, 1),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_the_count_is_the_budget_whatever_the_video(
    frames: int,
    tokens: int,
    change: float,
    ratio: float,
    expansion: float,
    diverse_ratio: float,
    link: float,
    segments: int,
    seed: int,
) -> None:
    method = FlashVID(
        ratio, expansion=expansion, diverse_ratio=diverse_ratio, link_threshold=link, min_segments=segments
    )
    merged = method.merge(clip(frames, tokens, change=change, seed=seed))
    count = method.merged_count(frames, tokens)
    assert count == max(1, round(min(1, expansion * ratio) * frames * tokens))
    assert len(merged.features) == count
    assert len((merged.frame * tokens + merged.position).unique()) == count
    assert int(merged.size.sum()) <= frames * tokens


def test_roots_become_cluster_means() -> None:
    video = of_angles([[0, 4, 8, 90, 94]])
    merged = FlashVID(0.4, expansion=1.0, diverse_ratio=0.0).merge(video)
    assert merged.size.tolist() == [3, 2]
    assert_close(merged.features, torch.stack([video.features[0, :3].mean(0), video.features[0, 3:].mean(0)]))


def test_the_outer_budget() -> None:
    for ratio in (0.05, 0.2, 0.5):
        merged = FlashVID(ratio).merge(clip(16, 20, change=1.0))
        assert len(merged.features) == round(1.25 * ratio * 320)
        assert bool((torch.bincount(merged.frame) >= math.ceil(0.7 * int(1.25 * ratio * 20))).all())


def test_the_layers_mean_is_the_budget() -> None:
    (stage,) = FlashVID(0.1).inner(28)
    assert stage.layer == 20
    assert stage.keep(10**6) == 300_000
    for ratio, depth in [(0.1, 24), (0.3, 80), (0.9, 32), (0.1, 5)]:
        method = FlashVID(ratio)
        (stage,) = method.inner(depth)
        share = stage.keep(10**9) / 10**9
        mean = method.sent_ratio * (stage.layer + (depth - stage.layer) * share) / depth
        assert mean == pytest.approx(ratio, abs=1e-6)
    assert FlashVID(1.0).inner(28) == ()
    with pytest.raises(SettingsError, match=r"expansion must be below 1\.077, got 1\.25"):
        FlashVID(0.1, inner_layer=26).inner(28)
    with pytest.raises(SettingsError, match=r"inner_layer must be in 1\.\.3"):
        FlashVID(inner_layer=4).inner(4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expansion", 0.9),
        ("cut_threshold", -2),
        ("min_segments", 0),
        ("diverse_ratio", 2),
        ("link_threshold", -2),
        ("knn", 0),
        ("event_relevance", 1),
        ("inner_layer", 0),
    ],
)
def test_settings(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=field):
        FlashVID(**{field: value})
