"""What is computed of a video: the cheapest plan, and what it may never do."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holitom.tower.pixels import cells, changed
from holitom.tower.plan import OWN_SHARE, STOCK_SHARE, Plan, best_references, costs, plan


def compositions(frames: int, reach: int) -> Any:
    """Every way to cut `frames` into groups of at most `reach`."""
    if frames == 0:
        yield ()
    for first in range(1, min(frames, reach) + 1):
        for rest in compositions(frames - first, reach):
            yield (first, *rest)


def cheapest(counts: np.ndarray[Any, Any], places: int, reach: int) -> int:
    """The least that any cut into groups, any frame of each group being its reference, leaves to compute."""
    frames = counts.shape[1]

    def cost(frame: int, reference: int) -> int:
        if frame == reference:
            return places
        differing = int(counts[abs(frame - reference) - 1, min(frame, reference)])
        return places if differing > OWN_SHARE * places else differing

    best = frames * places
    for lengths in compositions(frames, reach):
        starts = np.cumsum([0, *lengths])
        groups = [range(a, b) for a, b in pairwise(starts)]
        for references in product(*groups):
            total = sum(
                cost(frame, reference)
                for group, reference in zip(groups, references, strict=True)
                for frame in group
            )
            best = min(best, total)
    return best


@given(st.data(), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_no_other_groups_or_references_leave_less_to_compute(data: Any, frames: int, reach: int) -> None:
    places = 10
    steps = reach - 1
    values = data.draw(st.lists(st.integers(0, places), min_size=steps * frames, max_size=steps * frames))
    counts = np.array(values, dtype=np.int64).reshape(steps, frames)
    cost = costs(counts, places)
    reference = best_references(cost)
    frame = np.arange(frames)
    total = cost[frame, reference - frame + reach - 1].sum()
    assert total == cheapest(counts, places, reach)
    assert (np.abs(reference - frame) < reach).all()
    assert (reference[reference] == reference).all()  # a reference stands for itself


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_every_place_is_computed_or_equal_to_a_frame_that_is_computed_whole(
    seed: int, frames: int, reach: int, still: float
) -> None:
    rng = np.random.default_rng(seed)
    places = 9
    video = rng.integers(0, 3, (frames, places))
    for t in range(1, frames):
        keep = rng.random(places) < still
        video[t, keep] = video[t - 1, keep]
    differs = np.zeros((reach - 1, frames, places), dtype=np.bool_)
    for k in range(1, min(reach, frames)):
        differs[k - 1, : frames - k] = video[k:] != video[:-k]
    found = plan(differs)
    assert found.computed[found.reference].all()  # nothing stands in that is not computed itself
    assert (np.abs(found.reference - np.arange(frames)) < reach).all()
    stands_in = video[found.reference]
    assert (video[~found.computed] == stands_in[~found.computed]).all()
    shares = found.computed.mean(1)
    assert ((shares <= OWN_SHARE) | (shares == 1)).all()
    assert found.share <= STOCK_SHARE or found.whole


def test_a_still_video_is_computed_once_a_group() -> None:
    found = plan(np.zeros((7, 20, 5), dtype=np.bool_))
    assert found.computed.sum() == 3 * 5
    assert len(found.references) == 3


def test_a_video_in_which_everything_moves_is_computed_whole() -> None:
    found = plan(np.ones((7, 20, 5), dtype=np.bool_))
    assert found.whole
    assert found.references == tuple(range(20))


def test_slow_drift_below_the_threshold_never_adds_up() -> None:
    """Frames are compared with what stands in for them, not with the frame before."""
    brightness = torch.arange(40.0)  # one level a frame, far below the threshold of 16
    frames = (brightness / 255)[:, None, None, None, None, None].expand(40, 4, 1, 1, 8, 8)
    found = plan(changed(cells(frames, (1.0,)), 16.0, 64).numpy())
    apart = np.abs(np.arange(40) - found.reference)
    assert apart.max() <= 16
    assert found.share < 0.2


def test_a_change_of_two_by_two_pixels_in_one_channel_is_seen() -> None:
    frames = torch.zeros(2, 1, 3, 1, 14, 14)
    frames[1, 0, 1, 0, 4:6, 8:10] = 17 / 255 / 0.5
    assert changed(cells(frames, (0.5, 0.5, 0.5)), 16.0, 2)[0, 0, 0]
    assert not changed(cells(frames, (0.5, 0.5, 0.5)), 18.0, 2)[0, 0, 0]


@pytest.mark.parametrize("side", [7, 8])
def test_a_channels_scale_counts_in_levels_of_the_frame(side: int) -> None:
    """CLIP divides channels by numbers of their own: the same change of light is the same distance in all."""
    std = (0.26862954, 0.26130258, 0.27577711)
    for channel in range(3):
        frames = torch.zeros(2, 1, 3, 2, side, side)
        frames[1, 0, channel, 1] = 20 / 255 / std[channel]
        apart = (cells(frames, std)[1] - cells(frames, std)[0]).abs().max()
        torch.testing.assert_close(apart, torch.tensor(20.0))


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_pairs_are_compared_alike_however_long_the_video(seed: int, frames: int, reach: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(frames, 3, 4, generator=generator) * 40
    found = changed(means, 16.0, reach)
    assert found.shape == (reach - 1, frames, 3)
    for k in range(1, reach):
        for t in range(frames):
            differs = (
                (means[t + k] - means[t]).abs().amax(-1) > 16
                if t + k < frames
                else torch.zeros(3, dtype=torch.bool)
            )
            assert torch.equal(found[k - 1, t], differs)


def test_one_frame_is_computed() -> None:
    assert plan(np.zeros((7, 1, 5), dtype=np.bool_)).whole
    assert Plan.everything(1, 5).share == 1
