"""EarlyTom by hand: groups, whole frames that merge, and the tokens of each frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip, of_angles

from holitom.contract import FrameMerging
from holitom.errors import SettingsError
from holitom.methods import EarlyTom, HoliTom
from holitom.methods.earlytom import window_of
from holitom.ops.frame_groups import frame_groups, lagged_similarity, merge_frames


def turning(*degrees: float) -> torch.Tensor:
    """`[T, 1, 2]`: frames of one token."""
    return of_angles([[angle] for angle in degrees]).features


def test_similarities_some_frames_apart() -> None:
    found = lagged_similarity(turning(0, 60, 90), 2)
    np.testing.assert_allclose(found, [[0, 0, 0], [0.5, 0.8660254, 0], [0, 0, 0]], atol=1e-6)


def test_a_group_ends_where_its_first_frame_is_left_behind() -> None:
    # e: 1, then 0.9 cos 20 + 0.1 = 0.95, 0.9 cos 60 + 0.095 = 0.55; the third frame opens the next.
    frames = turning(0, 20, 60, 60, 60)
    found = frame_groups(lagged_similarity(frames, 4), 0.6, 6, 0.9)
    assert found == [(0, 1), (2, 4)]
    # with a threshold of 0.5 it stays: 0.9 cos 60 + 0.055 = 0.505, and again 0.5005
    assert frame_groups(lagged_similarity(frames, 4), 0.5, 6, 0.9) == [(0, 4)]


def test_a_group_holds_fewer_than_max_frames() -> None:
    still = lagged_similarity(turning(*[0.0] * 7), 6)
    assert frame_groups(still, 0.5, 4, 0.9) == [(0, 2), (3, 5), (6, 6)]
    assert frame_groups(still, 0.5, 2, 0.9) == [(t, t) for t in range(7)]
    assert EarlyTom(max_frames=4).groups(turning(*[0.0] * 7)) == [(0, 2), (3, 5), (6, 6)]


def test_frames_merge_in_pairs_and_none_is_lost() -> None:
    # One group. First and last: cos 30 = 0.866. Middle frames 5, 6, 20, 21: 5 and 6 are more alike than 6 and
    # 20; 20 and 21 have no frame after them among the middle ones.
    found = merge_frames(turning(0, 5, 6, 20, 21, 30), segment_threshold=0.5, max_frames=8)
    a, b = np.cos(np.deg2rad(1)), np.cos(np.deg2rad(14))
    share = a / (a + b)
    expected = [
        [1, 0, 0, 0, 0, 0],
        [0, share, 1 - share, 0, 0, 0],
        [0, 0, 0, 0.5, 0.5, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)
    assert found.groups == [(0, 5)]
    assert found.source.tolist() == [0, 1, 3, 5]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 14),
    st.integers(1, 5),
    st.floats(0, 1),
    st.floats(-1, 1),
    st.integers(2, 9),
    st.integers(0, 99),
)
def test_every_frame_goes_into_one(
    frames: int, tokens: int, change: float, threshold: float, most: int, seed: int
) -> None:
    hidden = clip(frames, tokens, change=change, seed=seed).features
    found = merge_frames(hidden, segment_threshold=threshold, max_frames=most)
    np.testing.assert_allclose(found.weights.sum(1), 1)
    assert (found.weights >= 0).all()
    assert ((found.weights > 0).sum(0) <= 1).all()
    assert ((found.weights > 0).sum(1) <= 2).all()
    assert (np.diff(found.source) > 0).all()
    assert [first for first, _ in found.groups[1:]] == [last + 1 for _, last in found.groups[:-1]]
    assert max(last - first + 1 for first, last in found.groups) <= max(1, most - 1)
    assert found(hidden).shape == (len(found.weights), tokens, hidden.shape[2])
    assert found(hidden.bfloat16()).dtype == torch.bfloat16


def test_windows_are_consecutive_and_the_first_ones_longer() -> None:
    found = window_of(8, torch.tensor([[3], [8], [1], [0]]))
    assert found[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert found[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert not found[2:].any()


def test_bounding_frames_keep_the_most_important_and_middle_ones_are_spread() -> None:
    scores = [[0.1, 0.2, 0.9, 0.8, 0.7, 0.3]] * 3
    video = of_angles([[0] * 6] * 3, importance=scores)
    merged = EarlyTom(0.5).merge(video)
    assert merged.segments == [(0, 2)]
    kept = [merged.position[merged.frame == frame].tolist() for frame in range(3)]
    assert kept == [[2, 3, 4], [1, 2, 4], [2, 3, 4]]  # windows 01, 23, 45


def test_exact_counts_on_request() -> None:
    with pytest.raises(SettingsError, match="depends on what the video shows"):
        EarlyTom(0.3).merged_count(7, 9)
    for frames, tokens, ratio in [(7, 9, 0.3), (3, 5, 0.05), (1, 1, 0.5), (12, 4, 0.99)]:
        chosen = EarlyTom(ratio, budget="exact")
        merged = chosen.merge(clip(frames, tokens, change=0.2))
        assert (
            len(merged.features)
            == chosen.merged_count(frames, tokens)
            == max(1, round(ratio * frames * tokens))
        )


def test_the_share_is_of_what_the_tower_took_in() -> None:
    video = clip(4, 10, change=1.0)  # a group a frame
    assert len(EarlyTom(0.2).merge(video).features) == 8
    assert len(EarlyTom(0.2, frames_before=8).merge(video).features) == 16
    assert len(EarlyTom(0.2, frames_before=80).merge(video).features) == 40
    assert EarlyTom(0.2, frames_before=8, budget="exact").merged_count(4, 10) == 16


def test_whole_shares_are_not_rounded_up() -> None:
    assert 0.07 * 100 > 7
    assert len(EarlyTom(0.07).merge(clip(1, 100)).features) == 7


def test_earlytoms_inner_stage_is_holitoms() -> None:
    assert EarlyTom().inner(28) == HoliTom().inner(28)
    assert EarlyTom(inner_layer=3, inner_drop=0.2).inner(28) == HoliTom(inner_layer=3, inner_drop=0.2).inner(
        28
    )
    assert EarlyTom().without_inner().inner(28) == ()
    for field in ("segment_threshold", "momentum", "inner_drop"):
        with pytest.raises(SettingsError, match=field):
            EarlyTom(**{field: 2})
    for field in ("max_frames", "frames_before", "inner_layer"):
        with pytest.raises(SettingsError, match=field):
            EarlyTom(**{field: 0})


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.integers(1, 9),
    st.floats(0.05, 1),
    st.sampled_from(["ratio", "exact"]),
)
def test_what_is_left_of_a_tower_counts_in_numbers_of_all_frames(
    stays: list[bool], tokens: int, ratio: float, budget: str
) -> None:
    stays[0] = True
    frames, left = len(stays), tuple(t for t, stay in enumerate(stays) if stay)
    owner = [max(frame for frame in left if frame <= t) for t in range(frames)]
    video = clip(frames, tokens)
    video = replace(video, features=video.features[owner], importance=video.importance[owner])
    chosen = EarlyTom(ratio, budget=budget)
    small = replace(video, features=video.features[list(left)], importance=video.importance[list(left)])
    wanted = replace(chosen, frames_before=frames).merge(small)
    found = replace(chosen, in_tower=True).merge(replace(video, left=left))
    assert torch.equal(found.features, wanted.features)
    assert torch.equal(found.position, wanted.position)
    assert found.frame.tolist() == [left[frame] for frame in wanted.frame.tolist()]
    assert found.stages == {"tower": len(left) * tokens, "spatial": len(found.frame)}
    ends = [*left[1:], frames]
    assert found.segments == [(left[a], ends[b] - 1) for a, b in wanted.segments]
    assert found.origins is not None
    known = found.origins()
    at = found.frame * tokens + found.position
    into = known.into.flatten()
    assert torch.equal(torch.bincount(into[into >= 0], minlength=frames * tokens)[at], found.size)
    assert known.via.tolist() == [[t * tokens + n for n in range(tokens)] for t in owner]


def test_frames_that_stay_alone_are_untouched_by_one_that_is_not_finite() -> None:
    frames = turning(0, 5, 6, 20, 21, 30)
    found = merge_frames(frames, segment_threshold=0.5, max_frames=8)
    spoilt = frames.clone()
    spoilt[1] = torch.nan
    merged = found(spoilt)
    assert merged.isfinite().all(-1)[:, 0].tolist() == [True, False, True, True]
    assert torch.equal(merged[[0, 3]], frames[[0, 5]])


def test_settings_of_the_tower() -> None:
    assert EarlyTom().frame_merging is None
    assert EarlyTom(in_tower=True, tower_layers=(1, 2), momentum=0.5).frame_merging == FrameMerging(
        (1, 2), 0.6, 6, 0.5
    )
    assert EarlyTom(in_tower=True, budget="exact").count_varies
    for layers in ([1, 2], (), (2, 1), (1, 1), (-1,), (True,)):
        with pytest.raises(SettingsError, match="tower_layers"):
            EarlyTom(in_tower=True, tower_layers=layers)
    with pytest.raises(SettingsError, match="in_tower"):
        EarlyTom(in_tower="yes")
