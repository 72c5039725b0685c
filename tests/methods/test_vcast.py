"""V-CAST by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip, of_angles

from holitom.errors import SettingsError
from holitom.methods import VCAST
from holitom.methods.vcast import curvature
from holitom.tokens import VideoTokens


def test_a_path_turns_back_stands_still_and_goes_on() -> None:
    line = torch.tensor([[0.0, 0], [1, 0], [2, 0], [1, 0], [1, 0], [1, 1]])
    # first, on, back, a still frame after and before, last
    torch.testing.assert_close(curvature(line), torch.tensor([1.0, 0, 2, 1, 1, 1]))
    assert curvature(line[:1]).tolist() == [1]
    assert curvature(line[:2]).tolist() == [1, 1]


def test_frames_alike_share_alike_and_the_first_have_the_remainder() -> None:
    merged = VCAST(0.5).merge(clip(1, 9))
    assert len(merged.features) == 4
    still = VideoTokens(torch.ones(4, 5, 3), torch.zeros(4, 5), (1, 5))
    assert torch.bincount(VCAST(0.5).merge(still).frame).tolist() == [3, 3, 2, 2]


def test_what_stands_out_and_what_is_long_stays() -> None:
    video = of_angles([[0, 0, 90, 0, 0]])
    assert VCAST(0.2).merge(video).position.tolist() == [2]
    features = video.features.clone()
    features[0, 4] *= 3
    # 0 degrees is near the mean (1 - cos is small), but three times as long (1); 90 degrees is not near
    longer = VideoTokens(features, video.importance, video.grid)
    assert VCAST(0.4).merge(longer).position.tolist() == [2, 4]


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0.01, 1),
    st.integers(0, 3),
    st.floats(0.01, 3),
    st.integers(0, 9),
)
def test_every_frame_has_its_least_and_no_more_than_all(
    frames: int, tokens: int, ratio: float, least: int, temperature: float, seed: int
) -> None:
    method = VCAST(ratio, temperature=temperature, min_tokens=least)
    merged = method.merge(clip(frames, tokens, seed=seed))
    shown = torch.bincount(merged.frame, minlength=frames)
    assert int(shown.min()) >= min(least, tokens)
    assert int(shown.max()) <= tokens
    assert len(merged.frame) == method.merged_count(frames, tokens)
    assert bool(((merged.frame * tokens + merged.position).diff() > 0).all())


def test_settings() -> None:
    with pytest.raises(SettingsError, match="temperature"):
        VCAST(temperature=0)
    with pytest.raises(SettingsError, match="min_tokens"):
        VCAST(min_tokens=-1)
