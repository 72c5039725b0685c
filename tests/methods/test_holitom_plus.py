"""What HoliTom+ promises beyond what holds for every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.videos import clip, of_angles

from holitom.errors import SettingsError
from holitom.methods import HoliTom, HoliTomPlus
from holitom.ops.segmentation import best_segments, neighbour_similarity, static_counts, static_until


def test_important_runs_come_from_anywhere_and_the_rest_from_where_things_are_new() -> None:
    """Three positions, four frames; a cut after the second frame, and position 1 changes in the last."""
    video = of_angles(
        [[0, 10, 20], [0, 10, 20], [100, 110, 120], [100, 200, 120]],
        [[1.0, 1.0, 9.0], [1.0, 1.0, 7.0], [2.0, 3.0, 1.0], [4.0, 6.0, 1.0]],
    )
    # Runs: frame 0: importance 1, 1, 8; frame 2: 3 (position 0), 3 (one frame long), 1; frame 3: 6.
    merged = HoliTomPlus(4 / 12, similarity_threshold=0.9, contextual_ratio=0.5).merge(video)
    assert merged.stages == {"temporal": 7, "spatial": 4}
    # Two most important: position 2 of frame 0 and position 1 of frame 3. The other two are centres of what
    # begins in frame 0 (two runs) and frame 2 (three): one each.
    assert merged.frame.tolist() == [0, 0, 2, 3]
    assert merged.position[[1, 3]].tolist() == [2, 1]
    assert merged.size.tolist() == [4, 2, 5, 1]
    center = int(merged.position[0])
    expected = 0.6 * video.features[0, center] + 0.4 * video.features[0, 1 - center]
    torch.testing.assert_close(merged.features[0], expected)


def test_what_comes_and_goes_ranks_before_what_passes() -> None:
    """An object (0 degrees) crosses three positions; a less important one (200) flashes behind it."""
    ground = 90
    video = of_angles(
        [[0, ground, ground, ground], [ground, 0, ground, 200], [ground, ground, 0, ground]],
        [[8.0, 1.0, 1.0, 1.0], [1.0, 9.0, 1.0, 4.0], [1.0, 1.0, 8.0, 1.0]],
    )
    settings = {"similarity_threshold": 0.9, "contextual_ratio": 0.0, "inner_drop": None}
    merged = HoliTomPlus(3 / 12, **settings).merge(video)
    assert list(zip(merged.frame.tolist(), merged.position.tolist(), strict=True)) == [(0, 0), (1, 3), (2, 2)]
    merged = HoliTomPlus(3 / 12, passing_weight=1, **settings).merge(video)
    assert list(zip(merged.frame.tolist(), merged.position.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 2)]


def test_keeping_everything_keeps_the_order_too() -> None:
    video = clip(8, 9, change=0.3)
    merged = HoliTomPlus(1.0).merge(video)
    assert torch.equal(merged.features, video.features.flatten(0, 1))


def test_nothing_is_lost_where_all_are_merged() -> None:
    video = clip(16, 25, change=0.2)
    merged = HoliTomPlus(0.9, contextual_ratio=1.0).merge(video)
    assert int(merged.size.sum()) == 16 * 25


@pytest.mark.parametrize("change", [0.0, 0.1, 0.5])
def test_runs_prune_what_any_segmentation_does_and_more(change: float) -> None:
    video = clip(12, 20, change=change)
    runs = HoliTomPlus(0.01, similarity_threshold=0.8).merge(video).stages["temporal"]
    static = neighbour_similarity(video.features) > 0.8
    _, pruned = best_segments(static_counts(static_until(static)))
    assert runs == 12 * 20 - int(static.sum())
    assert runs <= 12 * 20 - pruned


def test_nothing_is_averaged_over_time_where_tokens_keep_their_time() -> None:
    """Unless a threshold is asked for."""
    still = replace(clip(8, 16, change=0), timed=True)
    assert HoliTomPlus(0.25).merge(still).stages["temporal"] == 8 * 16
    assert HoliTomPlus(0.25, similarity_threshold=0.8).merge(still).stages["temporal"] < 8 * 16
    assert HoliTomPlus(0.25).merge(replace(still, timed=False)).stages["temporal"] < 8 * 16


def test_a_black_video_is_served() -> None:
    still = clip(8, 16)
    black = type(still)(torch.zeros_like(still.features), torch.zeros(8, 16), still.grid)
    merged = HoliTomPlus(0.1).merge(black)
    assert len(merged.features) == HoliTomPlus(0.1).merged_count(8, 16)
    assert not merged.features.any()


def test_its_settings_are_holitoms() -> None:
    assert [HoliTomPlus(r).threshold for r in (0.05, 0.25)] == [0.8, 0.8]
    assert HoliTomPlus(inner_layer=3, inner_drop=0.25).inner(8) == HoliTom(
        inner_layer=3, inner_drop=0.25, inner_attention="own"
    ).inner(8)
    with pytest.raises(SettingsError, match="contextual_ratio"):
        HoliTomPlus(contextual_ratio=2)
    with pytest.raises(SettingsError, match="passing_weight"):
        HoliTomPlus(passing_weight=-0.1)
    with pytest.raises(TypeError):
        HoliTomPlus(budget="ratio")  # type: ignore[call-arg]
