"""What holds for every method, whatever its paper: budgets, determinism, dtypes, edges."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.videos import clip

from holitom.bench.overhead import Count, count_operations, synthetic_video
from holitom.errors import SettingsError
from holitom.methods import METHODS, HoliTom, Method, Unified, get_method, method_class
from holitom.tokens import VideoTokens

BASELINES = [name for name in METHODS if name != "holitom"]
LEAST = {"dycoke": 0.25}  # what a method can meet at the least, whatever the video

SHAPES = [(1, 1), (1, 9), (2, 1), (3, 7), (4, 16), (5, 6), (8, 9), (17, 4), (32, 16)]


def method(name: str, ratio: float) -> Method:
    return get_method(name, retain_ratio=max(ratio, LEAST.get(name, 0)))


each = pytest.mark.parametrize("name", BASELINES)


@each
@pytest.mark.parametrize(("frames", "tokens"), SHAPES)
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.25, 0.37, 0.8, 1.0])
def test_the_budget_is_met_by_tokens_of_the_video(name: str, frames: int, tokens: int, ratio: float) -> None:
    chosen, video = method(name, ratio), clip(frames, tokens)
    if name == "uniform" and ratio * frames < 1:
        with pytest.raises(SettingsError, match=f"{1 / frames:.4g} at the least"):
            chosen.merge(video)
        return
    merged = chosen.merge(video)
    count = len(merged.features)
    assert len(merged.frame) == len(merged.position) == len(merged.size) == count
    places = merged.frame * tokens + merged.position
    assert len(places.unique()) == count
    assert bool(((places >= 0) & (places < frames * tokens)).all())
    assert bool((merged.frame.diff() >= 0).all())
    assert bool((merged.size >= 1).all())
    assert int(merged.size.sum()) <= frames * tokens
    assert merged.features.isfinite().all()
    assert merged.segments[0][0] == 0
    assert merged.segments[-1][1] == frames - 1
    if not chosen.count_varies:
        assert count == chosen.merged_count(frames, tokens)
    if name == "aot":
        return  # whose anchors take in a share of every token
    as_it_was = merged.size == 1
    assert torch.equal(
        merged.features[as_it_was], video.features[merged.frame[as_it_was], merged.position[as_it_was]]
    )


@each
def test_keeping_everything_keeps_every_token_as_it_was(name: str) -> None:
    video = clip(8, 9)
    chosen = method(name, 1.0)
    if chosen.count_varies:
        with pytest.raises(SettingsError, match="depends on what the video shows"):
            chosen.merged_count(8, 9)
        return  # merges what repeats at any ratio, as its paper does
    merged = chosen.merge(video)
    assert torch.equal(merged.features, video.features.flatten(0, 1)[merged.frame * 9 + merged.position])
    assert len(merged.features) == 72
    assert isinstance(chosen, (HoliTom, Unified)) or chosen.inner(28) == ()  # whose share inside is another


@each
def test_the_same_video_gives_the_same_tokens(name: str) -> None:
    chosen, video = method(name, 0.3), clip(8, 9)
    one, other = chosen.merge(video), chosen.merge(clip(8, 9))
    batch = torch.stack([clip(8, 9, seed=1).features, video.features])
    keys = None if video.keys is None else torch.stack([video.keys, video.keys])[1]
    row = chosen.merge(VideoTokens(batch[1], video.importance, video.grid, keys))
    for field in ("features", "frame", "position", "size"):
        assert torch.equal(getattr(one, field), getattr(other, field))
        assert torch.equal(getattr(one, field), getattr(row, field))


@each
def test_half_precision_keeps_what_float32_keeps(name: str) -> None:
    chosen, video = method(name, 0.3), clip(8, 9)
    half = replace(video, features=video.features.bfloat16())
    merged, expected = chosen.merge(half), chosen.merge(replace(half, features=half.features.float()))
    assert merged.features.dtype == torch.bfloat16
    assert torch.equal(merged.frame, expected.frame)
    assert torch.equal(merged.position, expected.position)
    torch.testing.assert_close(merged.features, expected.features.bfloat16(), atol=0.02, rtol=0.02)


@each
@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (1, 16), (8, 1), (8, 16)])
def test_a_black_video_is_served(name: str, frames: int, tokens: int) -> None:
    video = clip(frames, tokens)
    black = VideoTokens(
        torch.zeros_like(video.features),
        torch.zeros_like(video.importance),
        video.grid,
        None if video.keys is None else torch.zeros_like(video.keys),
    )
    merged = method(name, 0.3).merge(black) if (name, frames) != ("uniform", 1) else None
    if merged is not None:
        assert len(merged.features) >= 1
        assert not merged.features.any()


@each
def test_a_method_is_a_value(name: str) -> None:
    chosen = method(name, 0.5)
    assert chosen == method(name, 0.5)
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert str(chosen.retain_ratio) in repr(chosen)
    assert "arXiv" in str(__import__("sys").modules[type(chosen).__module__].__doc__) or name in FLOORS
    with pytest.raises(SettingsError, match="retain_ratio"):
        get_method(name, retain_ratio=1.5)


FLOORS = ("random", "uniform")


def test_unknown_names_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(SettingsError, match=r"unknown method 'magic'; known: holitom, holitom-plus, random"):
        get_method("magic")
    with pytest.raises(SettingsError, match=r"evs has no setting 'knn'; it has retain_ratio"):
        get_method("evs", knn=3)
    assert method_class("holitom") is HoliTom


@pytest.mark.parametrize("name", [name for name in BASELINES if not get_method(name).merges_inside])
def test_an_outer_method_takes_holitoms_inner_merging(name: str) -> None:
    outer: Any = method(name, 0.5)
    both = outer.with_inner(HoliTom())
    assert both.retain_ratio == 0.5
    assert both.inner(28) == HoliTom().inner(28)
    assert both.needs_importance == outer.needs_importance
    assert both.needs_keys == outer.needs_keys
    video = clip(8, 9)
    assert torch.equal(both.merge(video).features, outer.merge(video).features)


# Methods whose steps follow from one another: operations that 16 frames more may take (steps, and for each).
STEPWISE = {"simplecluster": 314 * 4, "unified": 220 * 8, "gleanvid": 16 * 60}


@each
def test_launches_do_not_grow_with_the_video(name: str) -> None:
    """Nor do waits for the device, two at most. FlashVID follows links once more for twice the frames; some
    methods are loops by nature."""

    def count(frames: int) -> Count:
        video = synthetic_video(frames, width=32)
        keys = torch.randn(*video.features.shape[:2], 16, generator=torch.Generator().manual_seed(0))
        chosen = method(name, 0.1)
        return count_operations(lambda: chosen.merge(replace(video, keys=keys)))

    short, long = count(16), count(32)
    assert long.operations <= short.operations + STEPWISE.get(name, int(name == "flashvid"))
    assert long.synchronisations == short.synchronisations <= 2


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_streams_merge_as_the_features_do_and_decide_nothing(name: str, ratio: float) -> None:
    """Merging is linear in what is merged: a stream that is the features, mirrored, stays so."""
    video = clip(12, 16, change=0.3)
    others = torch.randn(12, 16, 3, generator=torch.Generator().manual_seed(5))
    streams = torch.cat([-2 * video.features, others], dim=-1)
    chosen, (plain, carried) = method(name, ratio), (video, replace(video, streams=streams))
    alone, merged = chosen.merge(plain), chosen.merge(carried)
    assert alone.streams is None
    assert merged.streams is not None
    for field in ("features", "frame", "position", "size"):
        assert torch.equal(getattr(merged, field), getattr(alone, field))
    width = video.features.shape[-1]
    torch.testing.assert_close(merged.streams[:, :width], -2 * merged.features)
    kept = (merged.size == 1) & (name != "aot")  # whose anchors take in a share of every token
    assert torch.equal(merged.streams[kept, width:], others[merged.frame[kept], merged.position[kept]])
