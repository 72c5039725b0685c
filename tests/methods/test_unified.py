"""Unified STC by hand, and the parts it is made of against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.videos import clip, of_angles

from holitom.errors import SettingsError
from holitom.methods import HoliTom, Unified
from holitom.methods.unified import TextAwareMerge, unlike
from holitom.ops import pairs
from holitom.ops.clustering import dpc_knn
from holitom.ops.pairs import Products, density_peaks


def test_important_tokens_are_admitted_unless_they_are_alike() -> None:
    # By importance: 0, 10 (too like 0), 90, 50 degrees: cos 50 = 0.64 and cos 40 = 0.77, too like 90.
    video = of_angles([[0, 10], [90, 50]], importance=[[0.9, 0.8], [0.7, 0.6]])
    products = Products(video.features.flatten(0, 1))
    picks, admitted = unlike(products, video.importance.flatten(), 4, 0.7)
    assert admitted.tolist() == [True, True, False, False]
    assert picks[:2].tolist() == [0, 2]
    picks, admitted = unlike(products, video.importance.flatten(), 3, 0.78)
    assert picks[admitted].tolist() == [0, 2, 3]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(-1, 1), st.integers(0, 99))
def test_the_pool_is_its_definition(tokens: int, wanted: int, threshold: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(tokens, 3, generator=rng)
    importance = torch.randint(5, (tokens,), generator=rng) / 4
    unit = torch.nn.functional.normalize(points, dim=-1)
    pool: list[int] = []
    for place in importance.argsort(descending=True, stable=True).tolist():
        if len(pool) < wanted and all(float(unit[place] @ unit[other]) < threshold for other in pool):
            pool.append(place)
    picks, admitted = unlike(Products(points), importance, wanted, threshold)
    assert picks[admitted].tolist() == pool


@pytest.mark.parametrize("rows", [False, True])
@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.floats(0.01, 1), st.floats(0.3, 1), st.integers(1, 8), st.integers(0, 99))
def test_one_large_group_clusters_as_any_group(
    rows: bool, tokens: int, share: float, offered: float, knn: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(tokens, 5, generator=rng)
    mask = torch.rand(tokens, generator=rng) < offered
    mask[0] = True
    assume(not rows or min(knn, round(share * int(mask.sum()))) > 2)  # else neighbours tie, up to rounding
    at = mask.nonzero()[:, 0]
    count = max(1, round(share * len(at)))
    with pytest.MonkeyPatch.context() as patch:
        if rows:
            patch.setattr(pairs, "WHOLE", 0)
            patch.setattr(pairs, "WORKSPACE", 3 * tokens)
        center, nearest = density_peaks(Products(points), mask, count, knn)
    expected = dpc_knn(points[at], np.array([len(at)]), np.array([count]), knn=knn)
    assert center.nonzero()[:, 0].tolist() == at[expected.centers].tolist()
    assert nearest[at].tolist() == at[expected.centers[expected.owner]].tolist()


def test_budget_that_the_pool_cannot_use_goes_to_clusters() -> None:
    """A still video: two directions, so a pool of two; all other tokens of the budget are clusters."""
    video = of_angles([[0, 90]] * 10, importance=[[0.5, 0.4]] * 10)
    merged = Unified(0.4).merge(video)
    assert merged.stages == {"pool": 2, "spatial": 8}
    assert merged.size.tolist()[:2] == [1, 1]
    assert int(merged.size.sum()) == 20
    assert bool(((merged.frame * 2 + merged.position).diff() > 0).all())


def test_a_budget_of_one_is_the_most_important_token() -> None:
    video = of_angles([[0, 30], [60, 90]], importance=[[0.1, 0.2], [0.9, 0.3]])
    merged = Unified(0.1).merge(video)
    assert (merged.frame.tolist(), merged.position.tolist(), merged.size.tolist()) == ([1], [0], [1])
    assert merged.origins is not None
    assert merged.origins().into.tolist() == [[-1, -1], [2, -1]]


def test_inside_attention_and_likeness_of_the_text_rank() -> None:
    hidden = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    text = torch.tensor([[0.0, 1, 0], [0, 0.9, 0.1]])
    attention = torch.tensor([[0.1, 0.0, 0.3, 0.0], [0.0, 0.2, 0.1, 0.0]])
    stage = TextAwareMerge(18)
    # attention: 0.1 0.2 0.3 0 -> 1/3 2/3 1 0; likeness: 0, 1, 0.11, 0.71
    assert stage(hidden, attention, text)[0].tolist() == [1, 2]
    assert TextAwareMerge(18, text_weight=0)(hidden, attention, text)[0].tolist() == [1, 3]
    assert TextAwareMerge(18, text_weight=1, keep_ratio=0.25)(hidden, attention, text)[0].tolist() == [2]
    same = torch.ones(4, 3)
    assert stage.score(same, torch.ones(2, 4), text).tolist() == [0, 0, 0, 0]  # a constant says nothing
    assert stage(same, torch.ones(2, 4), text)[0].tolist() == [0, 1]
    assert stage.needs_text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_inner_stage_keeps_its_stated_count_of_any_input(value: float) -> None:
    hidden, text = torch.randn(7, 3), torch.randn(2, 3)
    attention = torch.rand(2, 7)
    hidden[2], attention[0, 3], text[0, 1] = value, value, value
    kept, merged = TextAwareMerge(18)(hidden, attention, text)
    assert len(kept) == len(merged) == TextAwareMerge(18).keep(7) == 4


def test_unified_has_its_own_inner_stage() -> None:
    assert Unified().inner(28) == (TextAwareMerge(18, 0.5, 0.5),)
    assert Unified(inner_layer=3, keep_ratio=0.4).inner(28) == (TextAwareMerge(3, 0.4, 0.5),)
    with pytest.raises(SettingsError, match=r"inner_layer must be in 1\.\.3"):
        Unified(inner_layer=4).inner(4)
    with pytest.raises(SettingsError, match="Unified has inner stages of its own"):
        Unified().with_inner(HoliTom())


def test_without_its_own_stage_unified_takes_another_methods() -> None:
    outer = Unified().without_inner()
    assert outer.inner(28) == ()
    assert outer.with_inner(HoliTom()).inner(28) == HoliTom().inner(28)
    assert len(Unified(0.3).merge(clip(4, 5)).features) == 6


def test_settings() -> None:
    for field in ("similarity_threshold", "cluster_ratio", "knn", "text_weight", "keep_ratio", "inner_layer"):
        with pytest.raises(SettingsError, match=field):
            Unified(**{field: -2})
