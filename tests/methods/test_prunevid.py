"""PruneVid by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.videos import clip, of_angles
from torch.testing import assert_close

from holitom.errors import SettingsError
from holitom.methods import PruneVid
from holitom.methods.prunevid import pair_similarity


def test_mean_similarity_over_all_pairs() -> None:
    features = of_angles([[0, 0], [60, 0], [90, 0], [7, 7]]).features
    found = pair_similarity(features, np.array([0, 3]), np.array([3, 1]))
    # cos 60, cos 90 and cos 30, their mean
    assert_close(found[0], torch.tensor([(0.5 + 0 + 0.8660254) / 3, 1.0]))
    assert found[1].tolist() == [-float("inf")] * 2


def test_two_scenes() -> None:
    """Six frames near 0 degrees, then two near 180: `int(8 / 4)` clusters of frames."""
    scene = [[0.0, 0.0], [0.0, 90.0]] * 3 + [[180.0, 180.0]] * 2
    video = of_angles(scene)
    merged = PruneVid(1.0).merge(video)
    assert merged.segments == [(0, 5), (6, 7)]
    # Position 0 is static in both; position 1 flips in the first by 90 degrees (6 of 15 pairs alike), and is
    # static in the second: 1 + 6 + 2 tokens are left.
    assert merged.stages == {"temporal": 9, "spatial": 9}
    places = list(zip(merged.frame.tolist(), merged.position.tolist(), merged.size.tolist(), strict=True))
    assert places == [(0, 0, 6), *[(t, 1, 1) for t in range(6)], (6, 0, 2), (6, 1, 2)]
    assert_close(merged.features[0], torch.tensor([1.0, 0.0]))
    assert_close(merged.features[2], torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)


def test_clusters_become_their_means() -> None:
    """One frame: nothing is static, and its tokens fall into two heaps."""
    video = of_angles([[0, 4, 8, 90, 94]])
    merged = PruneVid(0.4).merge(video)
    assert merged.size.tolist() == [3, 2]
    assert_close(merged.features, torch.stack([video.features[0, :3].mean(0), video.features[0, 3:].mean(0)]))


def test_the_budget_is_met_after_averaging() -> None:
    for change in (0.0, 0.2, 1.0):
        merged = PruneVid(0.1).merge(clip(16, 20, change=change))
        assert len(merged.features) == min(32, merged.stages["temporal"])


@pytest.mark.parametrize(("field", "value"), [("segment_ratio", 0), ("similarity_threshold", -2), ("knn", 0)])
def test_settings(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=field):
        PruneVid(**{field: value})
