"""The load generator's still videos: files that decode to what was drawn, of which a tower reuses most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from holitom import Reuse, load_video
from holitom.bench.still_load import encoded, still_frames
from holitom.tower.base import plan_videos
from holitom.tower.framed import patches_of
from holitom.tower.kinds import KINDS


def test_still_videos_differ_from_each_other_and_hardly_within(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (still_frames(rng, 384, 384, 8) for _ in range(2))
    assert (first != second).mean() > 0.9
    (tmp_path / "still.mp4").write_bytes(encoded(first))
    read = load_video(tmp_path / "still.mp4", 8).frames
    assert read.shape == first.shape
    assert np.abs(read.astype(int) - first).mean() < 4
    pixels = (torch.from_numpy(read).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    kind = KINDS["siglip_vision_model"]
    for frames, most in ((pixels, 0.35), (torch.rand_like(pixels) * 2 - 1, 1.0)):
        (plan,) = plan_videos([patches_of(frames, 14)], kind, Reuse())
        assert (plan.share < most) == (most < 1)
