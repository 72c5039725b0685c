"""Where every token went: each is accounted for once, and the averages that this implies are what is sent."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip, of_angles
from torch import Tensor
from torch.testing import assert_close

from holitom.methods import METHODS, HoliTom, Method, get_method
from holitom.models.newlines import grid_order
from holitom.tokens import MergedTokens, Origins, VideoTokens

CHOSEN: dict[str, Method] = {
    **{name: get_method(name, retain_ratio=0.5) for name in METHODS},
    "holitom, contextual": HoliTom(0.4, similarity_threshold=0.8, contextual_ratio=0.5),
    "holitom, static dropped": HoliTom(0.02, similarity_threshold=0.8),
    "holitom, exact": HoliTom(0.8, similarity_threshold=0.8, budget="exact"),
    "keep everything": Method(1.0),
}
each = pytest.mark.parametrize("label", CHOSEN)


def origins(merged: MergedTokens) -> Origins:
    assert merged.origins is not None
    return merged.origins()


def in_order(video: VideoTokens, merged: MergedTokens) -> tuple[Tensor, Tensor, Tensor]:
    """Origins flat, and the places of the merged tokens in the order they are sent."""
    frames, tokens, _ = video.features.shape
    found = origins(merged)
    assert found.via.shape == found.into.shape == (frames, tokens)
    return found.via.flatten(), found.into.flatten(), merged.frame * tokens + merged.position


@each
@pytest.mark.parametrize(("frames", "tokens"), [(2, 1), (2, 9), (5, 6), (8, 9), (17, 4), (32, 16)])
def test_every_token_is_accounted_for_once(label: str, frames: int, tokens: int) -> None:
    video = clip(frames, tokens)
    merged = CHOSEN[label].merge(video)
    via, into, at = in_order(video, merged)
    assert set(into.tolist()) <= {-1, *at.tolist()}
    gone = torch.bincount(into[into >= 0], minlength=frames * tokens)
    assert torch.equal(gone[at], merged.size)  # as many as each says it stands for
    assert int(gone.sum()) + int((into < 0).sum()) == frames * tokens
    assert torch.equal(into[at], at)  # a merged token is part of itself
    assert torch.equal(via[via], via)  # averages are not averaged again
    assert torch.equal(into[via], into)  # and a token goes where its average goes


def averages(video: VideoTokens, via: Tensor) -> Tensor:
    """`[T * N, D]`: by place, the mean of what was averaged there over time."""
    features = video.features.flatten(0, 1)
    total = torch.zeros_like(features).index_add(0, via, features)
    return total / torch.bincount(via, minlength=len(via)).clamp_min(1)[:, None]


def clusters(video: VideoTokens, merged: MergedTokens) -> list[tuple[Tensor, Tensor]]:
    """Of each merged token: its own average over time, and those that joined it."""
    via, into, at = in_order(video, merged)
    means, heads = averages(video, via), torch.arange(len(via)) == via
    return [
        (means[place], means[(into == place) & heads & (torch.arange(len(via)) != place)])
        for place in at.tolist()
    ]


def weigh(label: str, own: Tensor, joined: Tensor) -> Tensor:
    """How each method weighs a token against those that joined it, from its paper."""
    if not len(joined):
        return own
    if label.startswith("holitom"):
        return 0.6 * own + 0.4 * joined.mean(0)
    if label in ("prunevid", "flashvid", "simplecluster", "unified"):
        return torch.cat([own[None], joined]).mean(0)
    if label == "fastvid":
        weight = max(0.6, 1 / (1 + len(joined)))
        return weight * own + (1 - weight) * joined.mean(0)
    assert label == "visionzip"
    return own + joined.mean(0)


@each
def test_the_averages_that_it_implies_are_the_features(label: str) -> None:
    if label == "aot":
        return  # transports a share of every token to every anchor; origins name the largest
    for seed in range(3):
        video = clip(4 if label == "fastvid" else 12, 12, change=0.3, seed=seed)  # of one anchor frame
        merged = CHOSEN[label].merge(video)
        implied = torch.stack([weigh(label, own, joined) for own, joined in clusters(video, merged)])
        assert_close(merged.features, implied, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(0, 1),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.sampled_from(["ratio", "exact"]),
    st.integers(0, 9),
)
def test_holitom_whatever_the_settings(
    frames: int, tokens: int, change: float, ratio: float, contextual: float, budget: Any, seed: int
) -> None:
    video = clip(frames, tokens, change=change, seed=seed)
    merged = HoliTom(ratio, similarity_threshold=0.8, contextual_ratio=contextual, budget=budget).merge(video)
    implied = [weigh("holitom", own, joined) for own, joined in clusters(video, merged)]
    if implied:
        assert_close(merged.features, torch.stack(implied), atol=1e-5, rtol=1e-5)


def test_holitom_by_hand() -> None:
    # Positions 0 and 1 stand still (0 and 10 degrees), position 2 turns: one segment of three frames.
    # r' = 0.5 / (5 / 9) = 0.9: both static tokens stay, and each frame's only dynamic one.
    still = HoliTom(0.5, similarity_threshold=0.9)
    video = of_angles([[0, 10, 0], [0, 10, 90], [0, 10, 180]])
    assert origins(still.merge(video)).via.tolist() == [[0, 1, 2], [0, 1, 5], [0, 1, 8]]
    assert origins(still.merge(video)).into.tolist() == [[0, 1, 2], [0, 1, 5], [0, 1, 8]]
    # r' = 0.54 of two static tokens is one: the other joins it, at their place in the first frame.
    found = origins(HoliTom(0.3, similarity_threshold=0.9).merge(video))
    assert found.via.tolist() == [[0, 1, 2], [0, 1, 5], [0, 1, 8]]
    assert found.into.tolist() == [[0, 0, 2], [0, 0, 5], [0, 0, 8]]
    # r' = 0.18 of two is none: they are dropped, averaged or not.
    found = origins(HoliTom(0.1, similarity_threshold=0.9).merge(video))
    assert found.into.tolist() == [[-1, -1, 2], [-1, -1, 5], [-1, -1, 8]]


def test_a_models_own_token_order_changes_nothing() -> None:
    video = clip(4, 6)
    merged = HoliTom(0.5, similarity_threshold=0.8).merge(video)
    ordered = grid_order(merged, (2, 3), torch.zeros(8))
    assert torch.equal(origins(ordered).into, origins(merged).into)


@each
def test_what_is_kept_to_be_asked_holds_no_features(label: str) -> None:
    video = clip(8, 9, width=16)
    features = weakref.ref(video.features)
    ask = CHOSEN[label].merge(video).origins
    del video
    gc.collect()
    assert features() is None
    assert ask is not None
    assert ask().into.shape == (8, 9)
