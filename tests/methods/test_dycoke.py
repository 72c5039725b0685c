"""DyCoke by hand."""

from __future__ import annotations

import pytest
import torch
from support.videos import clip, of_angles

from holitom.errors import SettingsError
from holitom.methods import DyCoke


def test_one_window() -> None:
    video = of_angles([[0, 0, 0], [10, 50, 20], [5, 10, 80], [60, 15, 80]])
    # Degrees of change: frame 1 from 0: 10 50 20; frame 2 from 0: 5 10 80; frame 3 from 2: 55 5 0.
    merged = DyCoke(0.5).merge(video)  # 6 of 12 tokens: 3 + 1 + 1 + 1
    assert list(zip(merged.frame.tolist(), merged.position.tolist(), strict=True)) == [
        *[(0, 0), (0, 1), (0, 2)], (1, 1), (2, 2), (3, 0)
    ]  # fmt: skip


def test_the_papers_default() -> None:
    merged = DyCoke().merge(clip(8, 10))  # p = 0.7: 3 of 10 stay
    assert torch.bincount(merged.frame).tolist() == [10, 3, 3, 3, 10, 3, 3, 3]


def test_the_least_it_can_keep() -> None:
    assert DyCoke(0.25).merge(clip(8, 5)).frame.tolist() == [0] * 5 + [4] * 5
    assert DyCoke(0.25).merged_count(5, 10) == 20  # a last window of one frame
    with pytest.raises(SettingsError, match=r"retain_ratio must be in \[0\.25, 1\], got 0\.1"):
        DyCoke(0.1)
