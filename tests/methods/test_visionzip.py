"""VisionZip by hand."""

from __future__ import annotations

import pytest
import torch
from support.videos import clip
from torch.testing import assert_close

from holitom.errors import SettingsError
from holitom.methods import VisionZip
from holitom.tokens import VideoTokens


def test_one_frame_by_hand() -> None:
    features = torch.tensor([[[1.0, 0], [2, 0], [4, 0], [8, 0], [16, 0], [32, 1]]])
    importance = torch.tensor([[0.1, 0.9, 0.1, 0.1, 0.1, 0.1]])
    angle = torch.deg2rad(torch.tensor([[0.0, 45, 30, 80, 90, 100]]))
    keys = torch.stack([angle.cos(), angle.sin()], dim=-1)
    video = VideoTokens(features, importance, (2, 3), keys)
    # b = 3: one dominant token, 1; of the other five 0 2 3 4 5 every second, 0 and 3, is a target.
    # By their keys 2 (30 degrees) joins 0 (0 degrees); 4 (90) and 5 (100) join 3 (80).
    merged = VisionZip(0.5, dominant_ratio=0.4).merge(video)
    assert merged.position.tolist() == [1, 0, 3]
    assert merged.size.tolist() == [1, 2, 3]
    assert_close(merged.features, torch.tensor([[2.0, 0], [1 + 4, 0], [8 + 24, 0.5]]))


def test_the_papers_split() -> None:
    video = clip(2, 100)
    merged = VisionZip(0.64).merge(video)  # 64 a frame: 54 dominant ones, 10 targets every 4th of 46
    for t in range(2):
        at = merged.position[merged.frame == t]
        top = sorted(video.importance[t].topk(54).indices.tolist())
        rest = [n for n in range(100) if n not in top]
        assert at.tolist() == top + rest[0:40:4]
    assert int(merged.size.sum()) == 200


def test_budgets_that_do_not_come_out_even() -> None:
    merged = VisionZip(0.3).merge(clip(4, 9))  # 10.8: 11 tokens
    assert torch.bincount(merged.frame).tolist() == [3, 3, 3, 2]
    assert torch.bincount(VisionZip(0.05).merge(clip(4, 9)).frame, minlength=4).tolist() == [1, 1, 0, 0]


def test_settings() -> None:
    with pytest.raises(SettingsError, match="dominant_ratio"):
        VisionZip(dominant_ratio=1.5)
    video = clip(2, 4)
    with pytest.raises(SettingsError, match="keys"):
        VisionZip().merge(VideoTokens(video.features, video.importance, video.grid))
