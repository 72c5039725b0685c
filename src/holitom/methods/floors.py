"""Baselines that no method should fall below: random tokens, and fewer frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from holitom.errors import SettingsError
from holitom.methods.base import Method, require
from holitom.methods.parts import assemble, unchanged
from holitom.ops.host import HOST, to_device
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class Random(Method):
    """Keep `ceil(r T N)` tokens drawn at random.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        seed: seed of the draw. It is made on the host, so it is the same on every device and for all videos
            of one shape.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("seed", self.seed, "a whole number from 0 to 2^63 - 1", lambda v: v >= 0, whole=True)

    def merged_count(self, frames: int, tokens: int) -> int:
        return math.ceil(self.retain_ratio * frames * tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        generator = torch.Generator(HOST).manual_seed(self.seed)
        drawn = torch.randperm(frames * tokens, generator=generator, device=HOST)
        at = drawn[: self.merged_count(frames, tokens)].sort().values
        return assemble(video, [unchanged(at.to(video.features.device))])


@dataclass(frozen=True)
class Uniform(Method):
    """Keep as many whole frames as fit the budget, evenly spread: the middles of `f` equal parts.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1]; `floor(r T)` of
            `T` frames stay, so `merge` refuses ratios below `1 / T`.
    """

    def kept_frames(self, frames: int) -> int:
        """Number of frames that stay.

        Raises:
            SettingsError: the budget is below one frame.
        """
        kept = math.floor(self.retain_ratio * frames + 1e-9)  # 0.29 * 100 is a little less than 29
        if kept == 0:
            raise SettingsError(
                f"Uniform keeps whole frames: of {frames} it can keep one, retain_ratio "
                f"{1 / frames:.4g} at the least, got {self.retain_ratio!r}"
            )
        return kept

    def merged_count(self, frames: int, tokens: int) -> int:
        return self.kept_frames(frames) * tokens

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        kept = self.kept_frames(frames)
        shown = (2 * np.arange(kept) + 1) * frames // (2 * kept)
        at = (shown[:, None] * tokens + np.arange(tokens)).ravel()
        return assemble(video, [unchanged(to_device(at, video.features.device))])
