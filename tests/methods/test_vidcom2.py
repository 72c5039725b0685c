"""VidCom2 by hand."""

from __future__ import annotations

import pytest
import torch
from support.videos import of_angles

from holitom.errors import SettingsError
from holitom.methods import VidCom2
from holitom.methods.vidcom2 import likeness, steady_channels
from holitom.tokens import VideoTokens


def steady(degrees: list[list[float]]) -> VideoTokens:
    """Directions in channels 1 and 3; channels 0 and 2 vary far more."""
    plane = of_angles(degrees).features
    noisy = 100 * torch.arange(plane.shape[0] * plane.shape[1] * 1.0).view(*plane.shape[:2], 1)
    features = torch.cat([noisy, plane[..., :1], -noisy, plane[..., 1:]], dim=-1)
    return VideoTokens(features, torch.zeros(plane.shape[:2]), (1, plane.shape[1]))


def test_channels_that_vary_least() -> None:
    video = steady([[0, 0, 90]])
    assert steady_channels(video.features).tolist() == [1, 3]


def test_kernels_of_five_widths() -> None:
    # |(1, 0) - (0.75, 0.25)|^2 = 1/8: exp of -1/2, -1/4, -1/8, -1/16, -1/32
    value = likeness(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.75, 0.25]]]))
    assert float(value) == pytest.approx(0.60653 + 0.77880 + 0.88250 + 0.93941 + 0.96923, abs=1e-4)


def test_what_is_unlike_the_rest_stays() -> None:
    merged = VidCom2(0.25).merge(steady([[0, 0, 90, 0]]))
    assert merged.position.tolist() == [2]
    # The mean of 0, 10, 90, 0 degrees is at 21: farthest from it is 90, then 0, the first of the two.
    assert VidCom2(0.5).merge(steady([[0, 10, 90, 0]])).position.tolist() == [0, 2]


def test_a_frame_that_stands_out_keeps_more() -> None:
    video = steady([[0] * 6, [0] * 6, [90] * 6])
    # sigma is all but (0, 0, 1): shares in the ratio 1 - 1/3 : 1 - 1/3 : 2 - 1/3 of 9 tokens, 2 : 2 : 5
    merged = VidCom2(0.5).merge(video)
    assert torch.bincount(merged.frame).tolist() == [2, 2, 5]
    # of 16 the last would get 80/9; it has 6, and the others share the rest
    assert torch.bincount(VidCom2(16 / 18).merge(video).frame).tolist() == [5, 5, 6]


def test_settings() -> None:
    with pytest.raises(SettingsError, match="temperature"):
        VidCom2(temperature=0)
