"""EVS by hand."""

from __future__ import annotations

from support.videos import clip, of_angles

from holitom.methods import EVS


def test_the_first_frame_stays_then_what_changed_most() -> None:
    video = of_angles([[0, 0], [30, 5], [30, 50]])  # changes by 30 and 5, then by 0 and 45 degrees
    for ratio, places in [(0.5, [0, 1, 5]), (0.7, [0, 1, 2, 5]), (0.9, [0, 1, 2, 3, 5])]:
        merged = EVS(ratio).merge(video)  # int(0.5 * 6), int(4.2), int(5.4)
        assert (merged.frame * 2 + merged.position).tolist() == places


def test_one_frame_is_the_least() -> None:
    assert EVS(0.05).merge(clip(8, 6)).frame.tolist() == [0] * 6
    assert EVS(0.29).merged_count(100, 1) == 28  # int, as engines count
