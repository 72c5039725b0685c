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


def test_a_share_to_prune() -> None:
    for tokens, kept in [(10, 3), (49, 14), (36, 10), (1, 0)]:  # int(0.3 * 49)
        merged = DyCoke(prune=0.7).merge(clip(8, tokens))
        assert torch.bincount(merged.frame, minlength=8).tolist() == [tokens, *[kept] * 3] * 2
        assert len(merged.features) == DyCoke(prune=0.7).merged_count(8, tokens)
    assert (
        DyCoke(0.1, prune=1).merge(clip(8, 5)).frame.tolist() == [0] * 5 + [4] * 5
    )  # the ratio is not looked at


def test_other_windows() -> None:
    merged = DyCoke(prune=0.5, window=2).merge(clip(4, 4))
    assert torch.bincount(merged.frame).tolist() == [4, 2, 4, 2]
    # In a window of 6 the fifth frame is compared with the third: it changed in position 1 alone.
    video = of_angles([[0, 0], [0, 0], [50, 50], [9, 9], [50, 80], [0, 0]])
    merged = DyCoke(prune=0.5, window=6).merge(video)
    assert merged.position[merged.frame == 4].tolist() == [1]
    with pytest.raises(SettingsError, match=r"retain_ratio must be in \[0\.5, 1\], got 0\.475"):
        DyCoke(window=2)


def test_the_error_names_dycokes_smallest_ratio() -> None:
    assert DyCoke(0.25).merge(clip(8, 5)).frame.tolist() == [0] * 5 + [4] * 5
    assert DyCoke(0.25).merged_count(5, 10) == 20  # a last window of one frame
    with pytest.raises(SettingsError, match=r"retain_ratio must be in \[0\.25, 1\], got 0\.1"):
        DyCoke(0.1)
