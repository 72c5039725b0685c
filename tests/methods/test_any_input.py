"""What holds for every method whatever comes in: any dtype, features that are not finite, still videos."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip
from torch import Tensor

from holitom.contract import InnerStage, TextAwareStage, needs_text
from holitom.errors import SettingsError
from holitom.methods import METHODS, HoliTom, Method, get_method
from holitom.tokens import VideoTokens

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BAD = (math.nan, math.inf, -math.inf)
FLOORS = {"dycoke": 0.25}  # what a method can meet at the least, whatever the video

each = pytest.mark.parametrize("name", METHODS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def method(name: str, ratio: float, **settings: Any) -> Method:
    return get_method(name, retain_ratio=max(ratio, FLOORS.get(name, 0)), **settings)


def converted(video: VideoTokens, dtype: torch.dtype) -> VideoTokens:
    assert video.keys is not None
    return replace(video, features=video.features.to(dtype), keys=video.keys.to(dtype))


def is_sound(chosen: Method, video: VideoTokens) -> int:
    """What every result promises, checked; how many tokens there are."""
    frames, tokens, _ = video.features.shape
    merged = chosen.merge(video)
    count = len(merged.features)
    assert count >= 1
    assert merged.features.dtype == video.features.dtype
    assert len(merged.frame) == len(merged.position) == len(merged.size) == count
    at = merged.frame * tokens + merged.position
    assert bool(((at >= 0) & (at < frames * tokens)).all())
    assert len(at.unique()) == count
    assert bool((merged.size >= 1).all())
    assert merged.segments[0][0] == 0
    assert merged.segments[-1][1] == frames - 1
    assert merged.origins is not None
    into = merged.origins().into.flatten()
    assert torch.equal(torch.bincount(into[into >= 0], minlength=frames * tokens)[at], merged.size)
    try:
        expected = chosen.merged_count(frames, tokens)
    except SettingsError:
        assert chosen.count_varies or isinstance(chosen, HoliTom)
    else:
        assert count == expected
    return count


@each
@dtypes
def test_every_floating_dtype(name: str, dtype: torch.dtype) -> None:
    """As in float32: what is computed with is, and what is merged keeps its dtype."""
    video = clip(8, 9, change=0.3)
    rounded = converted(converted(video, dtype), torch.float32)
    chosen = method(name, 0.3)
    is_sound(chosen, converted(video, dtype))
    merged, expected = chosen.merge(converted(video, dtype)), chosen.merge(rounded)
    assert torch.equal(merged.frame, expected.frame)
    assert torch.equal(merged.position, expected.position)
    tolerance = 0.02 if dtype.itemsize == 2 else 1e-5
    torch.testing.assert_close(merged.features.float(), expected.features, atol=tolerance, rtol=tolerance)


def spoilt(tensor: Tensor, kind: str, value: float, rng: torch.Generator) -> Tensor:
    """A copy with what is not finite in some place."""
    tensor = tensor.clone()
    frame = int(torch.randint(tensor.shape[0], (), generator=rng))
    token = int(torch.randint(tensor.shape[1], (), generator=rng))
    if kind == "all":
        tensor[:] = value
    elif kind == "frame":
        tensor[frame] = value
    elif kind == "token":
        tensor[frame, token] = value
    elif kind == "entry":
        tensor[frame, token].view(-1)[0] = value
    elif kind == "scattered":
        tensor[torch.rand(tensor.shape, generator=rng) < 0.3] = value
    return tensor


kinds = st.sampled_from(["none", "entry", "token", "frame", "scattered", "all"])


@each
@settings(deadline=None, max_examples=60)
@given(
    frames=st.integers(1, 9),
    tokens=st.integers(1, 9),
    change=st.sampled_from([0.0, 0.3, 1.0]),
    ratio=st.floats(0.01, 1),
    dtype=st.sampled_from(DTYPES),
    kind=st.tuples(kinds, kinds, kinds, kinds),
    value=st.sampled_from(BAD),
    seed=st.integers(0, 99),
)
def test_what_is_not_finite_stops_nothing(
    name: str,
    frames: int,
    tokens: int,
    change: float,
    ratio: float,
    dtype: torch.dtype,
    kind: tuple[str, str, str, str],
    value: float,
    seed: int,
) -> None:
    if name == "uniform":
        ratio = max(ratio, 1 / frames)
    video, rng = converted(clip(frames, tokens, change=change, seed=seed), dtype), torch.Generator()
    assert video.keys is not None
    given = (video.features, video.importance, video.keys, video.importance.flip(1))
    features, importance, keys, shallow = (
        spoilt(tensor, where, value, rng.manual_seed(seed)) for tensor, where in zip(given, kind, strict=True)
    )
    spoilt_video = VideoTokens(features, importance, video.grid, keys, shallow=shallow)
    is_sound(method(name, ratio), spoilt_video)


@each
@pytest.mark.parametrize("scale", [3e4, 1e19, 1e38])
def test_features_too_large_to_be_squared(name: str, scale: float) -> None:
    for seed in range(5):
        video = clip(8, 9, seed=seed)
        dtype = torch.float16 if scale < 1e5 else torch.float32
        is_sound(method(name, 0.3), replace(video, features=(video.features * scale).to(dtype)))


@each
def test_one_broken_token_spoils_no_choice_among_the_others(name: str) -> None:
    """The frames that come before a broken one, and a cut, are merged as they are without it."""
    if name in ("random", "uniform", "fastv", "pdrop"):
        return  # these do not look
    video = clip(8, 16, change=1.0)
    features = video.features.clone()
    features[7, 3] = math.nan
    merged = method(name, 0.5).merge(replace(video, features=features))
    broken = ~merged.features.isfinite().all(-1)
    assert int(broken.sum()) <= 2  # itself, or what it was merged into
    assert bool((merged.frame[broken] >= 4).all())


@each
@pytest.mark.parametrize("ratio", [0, -0.1, 1.0000001, math.nan, math.inf, True, None, "0.1"])
def test_a_budget_that_is_none_is_refused_with_its_range(name: str, ratio: Any) -> None:
    with pytest.raises(SettingsError, match=r"retain_ratio must be .*(\(0, 1\]|\[0.25, 1\]), got"):
        get_method(name, retain_ratio=ratio)


@each
def test_a_budget_that_cannot_be_met_is_refused_or_the_least_is_sent(name: str) -> None:
    """Of 8 frames of 4 tokens a hundredth is less than a token, a frame, or a token a frame."""
    video = clip(8, 4)
    if name == "dycoke":
        with pytest.raises(SettingsError, match=r"retain_ratio must be in \[0.25, 1\], got 0.01"):
            get_method(name, retain_ratio=0.01)
    elif name == "uniform":
        with pytest.raises(SettingsError, match=r"retain_ratio 0.125 at the least, got 0.01"):
            get_method(name, retain_ratio=0.01).merge(video)
    else:
        count = is_sound(get_method(name, retain_ratio=0.01), video)
        least = {"vcast": 8, "evs": 4, "fastv": 32, "pdrop": 32}  # a token a frame, a frame, and all
        assert 1 <= count <= least.get(name, 8)


@each
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 16), st.sampled_from([1e-9, 0.001, 0.01, 0.02, 0.1]), st.booleans())
def test_at_least_one_token_of_a_still_video_is_sent(
    name: str, frames: int, tokens: int, ratio: float, black: bool
) -> None:
    chosen = method(name, max(ratio, 1 / frames) if name == "uniform" else ratio)
    features = torch.zeros(frames, tokens, 8) if black else torch.ones(frames, tokens, 8)
    is_sound(chosen, VideoTokens(features, torch.ones(frames, tokens), (1, tokens), features))


@each
@pytest.mark.parametrize("value", [0.0, 1.0, *BAD])
@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (1, 16), (2, 1), (3, 2), (8, 16)])
def test_a_video_of_one_value_is_served(name: str, frames: int, tokens: int, value: float) -> None:
    """Black frames, equal frames, and a tower that overflowed everywhere, its attention too."""
    for ratio in (0.05, 1.0):
        chosen = method(name, max(ratio, 1 / frames) if name == "uniform" else ratio)
        features, scores = torch.full((frames, tokens, 8), value), torch.full((frames, tokens), value)
        is_sound(chosen, VideoTokens(features, scores, (1, tokens), features, shallow=scores))


# Counts that no small video has: neighbours, segments, frames of a group, tokens of a frame, sides of a cell.
LARGE: dict[str, dict[str, Any]] = {
    "holitom": {"knn": 99, "contextual_ratio": 0.5},
    "holitom-plus": {"knn": 99},
    "prunevid": {"knn": 99},
    "fastvid": {"knn": 99, "min_segments": 99, "anchor_stride": 99},
    "flashvid": {"knn": 99, "min_segments": 99},
    "unified": {"knn": 99},
    "aot": {"clip": 99},
    "earlytom": {"max_frames": 99},
    "gleanvid": {"cell": 99, "rank": 99},
    "vcast": {"min_tokens": 99},
    "dycoke": {"window": 99},
    "simplecluster": {"iterations": 99},
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (1, 9), (7, 1), (6, 4)])
def test_counts_beyond_the_video_mean_all_there_is(name: str, frames: int, tokens: int) -> None:
    for ratio in (0.3, 1.0):
        chosen = get_method(name, retain_ratio=ratio, **LARGE[name])
        count = is_sound(chosen, clip(frames, tokens))
        assert count <= frames * tokens


def test_the_largest_still_segment_sends_the_one_token() -> None:
    """Two scenes of 3 and 5 equal frames: of 3 + 3 averages a hundredth rounds to none."""
    features = torch.cat([torch.eye(3).expand(3, -1, -1), -torch.eye(3).expand(5, -1, -1)])
    merged = HoliTom(0.01).merge(VideoTokens(features, torch.ones(8, 3), (1, 3)))
    assert merged.segments == [(0, 2), (3, 7)]
    assert (merged.frame.tolist(), merged.size.tolist()) == ([0], [9])
    assert merged.stages == {"temporal": 6, "spatial": 1}


def inner_methods() -> list[Method]:
    return [
        get_method("unified"),
        get_method("unified", keep_ratio=1e-6),
        get_method("unified", keep_ratio=0.9, text_weight=0),
        get_method("earlytom"),
        get_method("holitom-plus"),
        HoliTom(inner_drop=0.99),
        HoliTom(inner_drop=0.5),
        *(
            get_method(name, retain_ratio=ratio)
            for name in ("fastv", "flashvid")
            for ratio in (1e-6, 0.05, 0.5)
        ),
        get_method("pdrop", stage_keep=1e-6),
        get_method("pdrop", retain_ratio=0.3),
    ]


@pytest.mark.parametrize("chosen", inner_methods(), ids=repr)
@settings(deadline=None, max_examples=60)
@given(
    visual=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    kind=st.tuples(kinds, kinds),
    value=st.sampled_from(BAD),
    seed=st.integers(0, 99),
)
def test_inner_stages_keep_what_they_say_of_anything(
    chosen: Method, visual: int, dtype: torch.dtype, kind: tuple[str, str], value: float, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    hidden = spoilt(torch.randn(visual, 1, 8, generator=rng), kind[0], value, rng)[:, 0].to(dtype)
    attention = spoilt(torch.rand(visual, 1, generator=rng), kind[1], value, rng)[:, 0]
    text = spoilt(torch.randn(3, 1, 8, generator=rng), kind[0], value, rng)[:, 0].to(dtype)
    for stage in chosen.inner(28):
        if needs_text(stage):
            lines = torch.stack([attention.flip(0), attention, torch.rand(len(hidden), generator=rng)])
            kept, features = cast(TextAwareStage, stage)(hidden, lines, text)
        else:
            kept, features = cast(InnerStage, stage)(hidden, attention)
        assert 1 <= len(kept) == len(features) == stage.keep(len(hidden)) <= len(hidden)
        assert bool((kept.diff() > 0).all())
        assert int(kept[0]) >= 0
        assert int(kept[-1]) < len(hidden)
        assert features.dtype == dtype
        hidden, attention = features, attention[kept]


def test_attention_that_is_not_a_number_ranks_last() -> None:
    attention = torch.tensor([math.nan, 0.1, math.inf, math.nan, 0.2])
    (stage,) = get_method("fastv", retain_ratio=0.6).inner(4)
    assert stage(torch.randn(5, 2), attention)[0].tolist() == [1, 2, 4]
