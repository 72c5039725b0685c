"""What a user may rely on when HoliTom merges a video."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip as video

from holitom.bench.overhead import synthetic_video
from holitom.errors import HolitomError, SettingsError
from holitom.methods import HoliTom, Method
from holitom.methods.holitom import MergeInside, effective_ratio
from holitom.tokens import MergedTokens, VideoTokens


def expected_count(merged: MergedTokens, method: HoliTom, tokens: VideoTokens) -> int:
    """Stage 4's budgets, counted segment by segment; one token where they round to none."""
    frames, width, _ = tokens.features.shape
    unit = torch.nn.functional.normalize(tokens.features, dim=-1)
    static = (unit[1:] * unit[:-1]).sum(-1) > method.threshold
    ratio = effective_ratio(method.retain_ratio, frames * width, frames * width - merged.stages["temporal"])
    count = 0
    for i, j in merged.segments:
        m = int(static[i:j].all(0).sum()) if j > i else 0
        count += round(m * ratio) + (j - i + 1) * math.ceil((width - m) * ratio)
    return max(1, count)


shapes = pytest.mark.parametrize(
    ("frames", "tokens", "change"),
    [
        (1, 9, 0.5),
        (1, 1, 0.5),
        (8, 1, 0.5),
        (2, 2, 0.0),
        (8, 9, 0.0),
        (8, 9, 1.0),
        (16, 16, 0.3),
        (3, 50, 0.1),
    ],
)


@shapes
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("contextual", [0.0, 0.4, 1.0])
def test_any_shape_and_ratio_meets_its_budget(
    frames: int, tokens: int, change: float, ratio: float, contextual: float
) -> None:
    method = HoliTom(ratio, contextual_ratio=contextual)
    clip = video(frames, tokens, change=change)
    merged = method.merge(clip)
    count = expected_count(merged, method, clip)
    assert merged.features.shape == (count, 8)
    assert len(merged.frame) == len(merged.position) == len(merged.size) == count == merged.stages["spatial"]
    assert merged.features.isfinite().all()
    places = merged.frame * tokens + merged.position
    assert len(places.unique()) == count
    assert bool(((places >= 0) & (places < frames * tokens)).all())
    assert bool((merged.size >= 1).all())
    assert int(merged.size.sum()) <= frames * tokens


def test_keeping_everything_touches_nothing() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        clip = video(12, 16, change=0.1)
        features = clip.features.to(dtype)
        method = HoliTom(retain_ratio=1, similarity_threshold=1, inner_drop=None)
        merged = method.merge(VideoTokens(features, clip.importance, clip.grid))
        assert torch.equal(merged.features, features.flatten(0, 1))
        assert merged.features.dtype == dtype
        assert merged.frame.tolist() == [t for t in range(12) for _ in range(16)]
        assert merged.position.tolist() == [*range(16)] * 12
        assert merged.size.tolist() == [1] * 192
        assert method.inner(28) == ()


def test_no_token_is_lost_where_all_are_merged() -> None:
    merged = HoliTom(0.3, contextual_ratio=1.0).merge(video(16, 25, change=0.3))
    assert int(merged.size.sum()) == 16 * 25


def test_a_still_video_becomes_one_frame() -> None:
    frame = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0))
    merged = HoliTom(0.2).merge(VideoTokens(frame.expand(8, -1, -1), torch.rand(8, 16), (4, 4)))
    assert merged.segments == [(0, 7)]
    assert merged.stages == {"temporal": 16, "spatial": 16}
    torch.testing.assert_close(merged.features, frame[0])
    assert merged.frame.tolist() == [0] * 16
    assert merged.size.tolist() == [8] * 16


def test_a_black_video_is_served() -> None:
    merged = HoliTom(0.1).merge(VideoTokens(torch.zeros(8, 16, 4), torch.zeros(8, 16), (4, 4)))
    assert len(merged.features) == 16
    assert not merged.features.any()


def test_dynamic_tokens_are_the_most_important_ones_as_they_were() -> None:
    clip = video(4, 10, change=1.0)
    merged = HoliTom(0.3).merge(clip)
    for t in range(4):
        kept = merged.position[merged.frame == t]
        assert kept.tolist() == sorted(clip.importance[t].topk(3).indices.tolist())
        assert torch.equal(merged.features[merged.frame == t], clip.features[t, kept])


def test_the_same_video_gives_the_same_tokens_alone_and_in_a_batch() -> None:
    clips = [video(16, 16, change=0.3, seed=seed) for seed in range(3)]
    batch = torch.stack([clip.features for clip in clips])
    method = HoliTom(0.2, contextual_ratio=0.3)
    for row, clip in enumerate(clips):
        alone = method.merge(clip)
        again = method.merge(VideoTokens(batch[row], clip.importance, clip.grid))
        for name in ("features", "frame", "position", "size"):
            assert torch.equal(getattr(alone, name), getattr(again, name))


def test_bfloat16_is_merged_as_float32_is() -> None:
    clip = synthetic_video(16, width=64)
    half = VideoTokens(clip.features.bfloat16(), clip.importance, clip.grid)
    same = VideoTokens(half.features.float(), clip.importance, clip.grid)
    merged, expected = HoliTom(0.25).merge(half), HoliTom(0.25).merge(same)
    assert merged.features.dtype == torch.bfloat16
    assert merged.segments == expected.segments
    assert merged.stages == expected.stages
    exact = merged.size == 1  # dynamic tokens
    assert torch.equal(merged.features[exact], expected.features[exact].bfloat16())


def test_settings_default_to_the_papers() -> None:
    assert HoliTom() == HoliTom(
        retain_ratio=0.10, center_weight=0.6, knn=7, contextual_ratio=0.0, inner_layer=None, inner_drop=0.5
    )
    assert [HoliTom(r).threshold for r in (0.05, 0.10, 0.15, 0.25)] == [0.65, 0.65, 0.8, 0.8]
    assert HoliTom(0.25, similarity_threshold=0.7).threshold == 0.7
    layers = {24: 15, 28: 18, 80: 60, 32: 21, 8: 5, 2: 1}
    assert {depth: HoliTom().inner(depth)[0].layer for depth in layers} == layers
    assert HoliTom(inner_layer=3, inner_drop=0.25).inner(8) == (MergeInside(3, 0.25),)
    assert HoliTom(inner_drop=None).inner(28) == HoliTom(inner_drop=0).inner(28) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retain_ratio", 0),
        ("retain_ratio", 1.5),
        ("retain_ratio", "a lot"),
        ("retain_ratio", math.nan),
        ("retain_ratio", True),
        ("similarity_threshold", -2),
        ("center_weight", 1.1),
        ("knn", 0),
        ("knn", 2.5),
        ("contextual_ratio", -0.1),
        ("inner_layer", 0),
        ("inner_drop", 1.0),
        ("inner_attention", "next"),
        ("positions", "new"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value_and_range(field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=field) as error:
        HoliTom(**{field: value})
    assert repr(value) in str(error.value)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, HolitomError)


def test_a_layer_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"inner_layer must be in 1\.\.7"):
        HoliTom(inner_layer=8).inner(8)


@given(st.integers(0, 10_000), st.floats(0, 0.99))
@settings(max_examples=200, deadline=None)
def test_the_host_knows_how_many_tokens_stay_inside(visual: int, drop: float) -> None:
    stage = MergeInside(layer=1, drop=drop)
    assert 0 <= stage.keep(visual) <= stage.keep(visual + 1) <= visual + 1


def test_merging_inside_keeps_the_most_attended() -> None:
    hidden, attention = torch.randn(10, 4), torch.rand(10)
    kept, features = MergeInside(layer=1, drop=0.5)(hidden, attention)
    assert kept.tolist() == sorted(attention.topk(5).indices.tolist())
    assert features.shape == (5, 4)


def test_a_plain_method_keeps_everything() -> None:
    clip = video(3, 4)
    merged = Method(1.0).merge(clip)
    assert torch.equal(merged.features, clip.features.flatten(0, 1))
    assert merged.frame.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert merged.segments == [(0, 0), (1, 1), (2, 2)]
    assert Method().inner(28) == ()


@shapes
@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.37, 0.9, 1.0])
@pytest.mark.parametrize("contextual", [0.0, 0.4, 1.0])
def test_an_exact_budget_depends_on_the_shape_alone(
    frames: int, tokens: int, change: float, ratio: float, contextual: float
) -> None:
    method = HoliTom(ratio, contextual_ratio=contextual, budget="exact")
    count = method.merged_count(frames, tokens)
    assert count == max(1, round(ratio * frames * tokens))
    clip = video(frames, tokens, change=change)
    black = VideoTokens(torch.zeros_like(clip.features), clip.importance, clip.grid)
    still = VideoTokens(clip.features[:1].expand(frames, -1, -1), clip.importance, clip.grid)
    for each in (clip, black, still):
        merged = method.merge(each)
        assert len(merged.features) == count
        assert merged.features.isfinite().all()
        assert len((merged.frame * tokens + merged.position).unique()) == count
        assert int(merged.size.sum()) <= frames * tokens


def test_tokens_that_merging_over_time_saves_beyond_the_budget_go_to_the_most_important() -> None:
    clip = video(8, 16, change=0.0)
    merged = HoliTom(0.5, budget="exact").merge(clip)  # 16 tokens would do; 64 are asked for
    assert merged.stages == {"temporal": 64, "spatial": 64}
    later = merged.frame > 0
    places = merged.frame[later] * 16 + merged.position[later]
    assert places.tolist() == sorted((16 + clip.importance[1:].flatten().topk(48).indices).tolist())
    assert torch.equal(merged.features[later], clip.features.flatten(0, 1)[places])
    assert int(merged.size.sum()) == 8 * 16  # every other token is still in its average
    for feature, position, size in zip(merged.features, merged.position, merged.size, strict=True):
        if size > 1:
            alone = merged.frame[later & (merged.position == position).logical_and(later)]
            rest = [t for t in range(8) if t not in alone.tolist()]
            assert int(size) == len(rest)
            torch.testing.assert_close(feature, clip.features[rest, position].mean(0))


def test_an_exact_budget_for_everything_keeps_everything_as_it_was() -> None:
    clip = video(8, 16, change=0.3)
    merged = HoliTom(1.0, budget="exact").merge(clip)
    assert torch.equal(merged.features, clip.features[merged.frame, merged.position])
    assert len(merged.features) == 8 * 16


def test_merged_count_refuses_where_counts_depend_on_the_video() -> None:
    with pytest.raises(SettingsError, match="exact"):
        HoliTom(0.1).merged_count(8, 16)
    with pytest.raises(SettingsError, match="budget"):
        HoliTom(0.1, budget="sometimes")
