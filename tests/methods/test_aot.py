"""AOT: its budget, its anchors, and transport as it is defined, one problem at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip
from torch import Tensor

from holitom.errors import SettingsError
from holitom.methods import AOT
from holitom.ops.transport import sinkhorn
from holitom.tokens import VideoTokens


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 40),
    st.integers(1, 30),
    st.floats(0.001, 1),
    st.integers(1, 9),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_anchors_and_what_is_kept_are_the_budget(
    frames: int, tokens: int, ratio: float, size: int, keep: float, whole: float
) -> None:
    method = AOT(ratio, clip=size, keep_ratio=keep, global_ratio=whole)
    anchors, kept = method.plan(frames, tokens)
    first = np.arange(frames) % size == 0
    assert anchors[first].sum() + kept.sum() == method.merged_count(frames, tokens)
    assert (kept >= 0).all()
    assert (kept <= anchors).all()
    assert (anchors <= tokens).all()
    assert not kept[first].any()
    chosen = method.anchors(clip(frames, tokens), anchors)
    assert chosen.sum(1).tolist() == anchors.tolist()


def test_clips_are_longer_in_long_videos() -> None:
    assert [AOT().clip_length(frames) for frames in (1, 4, 63, 64, 200)] == [1, 4, 4, 8, 8]
    assert AOT(clip=5).clip_length(64) == 5
    merged = AOT(0.3).merge(clip(10, 9))
    assert merged.segments == [(0, 3), (4, 7), (8, 9)]


def test_local_anchors_are_spread_and_global_ones_are_not() -> None:
    """A frame of 6 x 6: one anchor a window by the shallow scores, as many more by the last layer's."""
    scores = torch.arange(36.0).view(1, 36)
    video = VideoTokens(torch.randn(1, 36, 4), scores, (6, 6), shallow=-scores)
    chosen = AOT(0.5, clip=1).anchors(video, np.array([18]))
    corners = {6 * row + column for row in (0, 2, 4) for column in (0, 2, 4)}  # the first of each window
    others = [place for place in range(36) if place not in corners]
    assert set(chosen[0].nonzero()[:, 0].tolist()) == corners | set(others[-9:])
    assert AOT(global_ratio=1).anchors(video, np.array([3]))[0].nonzero()[:, 0].tolist() == [33, 34, 35]


def test_windows_of_a_narrow_grid_may_be_empty() -> None:
    video = VideoTokens(torch.randn(1, 4, 3), torch.tensor([[0.1, 0.2, 0.3, 0.4]]), (2, 2))
    for count in range(1, 5):
        assert int(AOT().anchors(video, np.array([count])).sum()) == count


def test_without_a_shallow_layer_the_last_one_stands_in() -> None:
    video = clip(8, 9)
    both = AOT(0.3).merge(replace(video, shallow=video.importance))
    assert torch.equal(AOT(0.3).merge(video).features, both.features)


def by_definition(cost: Tensor, regularisation: float, iterations: int, tolerance: float) -> Tensor:
    kernel = torch.exp(-cost.double() / regularisation)
    u, v = 1 / len(cost), 1 / cost.shape[1]
    r, c = torch.ones(len(cost)).double(), torch.ones(cost.shape[1]).double()
    for _ in range(iterations):
        before, r = r, u / (kernel @ c)
        c = v / (kernel.T @ r)
        if (r - before).abs().mean() < tolerance:
            break
    return r[:, None] * kernel * c


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=4),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.integers(0, 99),
)
def test_transport_of_problems_of_any_size_at_once(
    sizes: list[tuple[int, int]], iterations: int, tolerance: float, seed: int
) -> None:
    cost = torch.rand(len(sizes), 8, 8, generator=torch.Generator().manual_seed(seed))
    rows = torch.stack([torch.arange(8) < size for size, _ in sizes])
    columns = torch.stack([torch.arange(8) < size for _, size in sizes])
    plans = sinkhorn(cost, rows, columns, regularisation=0.1, iterations=iterations, tolerance=tolerance)
    for plan, problem, (m, k) in zip(plans, cost, sizes, strict=True):
        expected = by_definition(problem[:m, :k], 0.1, iterations, tolerance)
        torch.testing.assert_close(plan[:m, :k].double(), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(plan.sum(0)[:k], torch.full((k,), 1 / k))
        assert float(plan.sum()) == pytest.approx(1)


def test_nothing_to_transport() -> None:
    none = torch.zeros(1, 3, dtype=torch.bool)
    settings = {"regularisation": 0.1, "iterations": 5, "tolerance": 0.01}
    assert not sinkhorn(torch.rand(1, 3, 2), none, torch.ones(1, 2, dtype=torch.bool), **settings).any()
    assert not sinkhorn(torch.rand(1, 3, 3), ~none, none, **settings).any()


@pytest.mark.parametrize("frames", [1, 4, 9])
def test_equal_tokens_stay_what_they_are(frames: int) -> None:
    """Of equal tokens every mean is the token, however it is weighed."""
    token = torch.tensor([1.0, -2, 3])
    video = VideoTokens(token.expand(frames, 12, -1), torch.ones(frames, 12), (3, 4))
    merged = AOT(0.3).merge(video)
    torch.testing.assert_close(merged.features, token.expand(len(merged.features), -1))
    assert int(merged.size.sum()) == 12 * frames


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 1), st.integers(0, 99))
def test_every_token_is_part_of_one_that_is_sent(frames: int, tokens: int, ratio: float, seed: int) -> None:
    video = clip(frames, tokens, seed=seed)
    method = AOT(ratio)
    merged = method.merge(video)
    at = merged.frame * tokens + merged.position
    assert bool((at.diff() > 0).all())
    anchors, _ = method.plan(frames, tokens)
    assert int(merged.size.sum()) == tokens * int((anchors > 0).sum())  # but for clips that have no budget
    bound = video.features.abs().amax()
    assert bool((merged.features.abs() <= bound * 1.0001).all())  # means of what is there


def test_settings() -> None:
    names = ("clip", "keep_ratio", "global_ratio", "regularisation", "iterations", "tolerance")
    for field in (*names, "spatial_weight", "nearest_weight", "sigma"):
        with pytest.raises(SettingsError, match=field):
            AOT(**{field: -1})
