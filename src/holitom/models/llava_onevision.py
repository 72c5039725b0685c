"""LLaVA-OneVision (0.5B, 7B, 72B): SigLIP tower, 2x2 bilinear pooling, one newline token per video, Qwen2."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import LlavaOnevisionModel

from holitom.models.base import Instead
from holitom.models.framed import StackedFrames
from holitom.models.values import SentTokens
from holitom.tokens import MergedTokens, VideoTokens


class LlavaOnevision(StackedFrames):
    """Adapter for `transformers.LlavaOnevisionForConditionalGeneration`."""

    family: ClassVar[str] = "LLaVA-OneVision"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision_config": ("siglip_vision_model", "siglip"),
        "text_config": ("qwen2",),
    }
    settings: ClassVar[dict[str, tuple[object, ...]]] = {"vision_feature_select_strategy": ("full",)}
    separators: ClassVar[int] = 1

    def frame_grid(self) -> tuple[int, int]:
        vision = self.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        return side, side

    def pool(self, patches: Tensor) -> Tensor:
        pooled: Tensor = self.trunk.apply_pooling(patches)
        return pooled

    def replaced(self) -> dict[str, Instead]:
        own = type(self.trunk).apply_pooling is LlavaOnevisionModel.apply_pooling
        return {"apply_pooling": self._apply_pooling} if own else {}

    def _apply_pooling(self, own: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (patches,) = (*args, *kwargs.values())
        vision = self.config.vision_config
        return pool_channels_last(patches, vision.image_size // vision.patch_size)

    def features(self, sent: Tensor) -> Tensor:
        return sent[:, :-1]  # the last one is the newline

    def count(self, frames: int) -> int:
        return super().count(frames) + 1

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        sent = super().send(video, merged)
        newline = self.trunk.image_newline[None].to(sent.features)
        last = torch.full_like(sent.slot[:1], self.slots(video) - 1)
        return SentTokens(
            features=torch.cat([sent.features, newline]),
            slot=torch.cat([sent.slot, last]),
            place=torch.cat([sent.slot, torch.full_like(last, -1)]),
        )


def pool_channels_last(patches: Tensor, side: int) -> Tensor:
    """Pool frames of `side * side` patches bilinearly to half the side, rounded up.

    The stock code makes channels come first. PyTorch's kernels for that are slower: on a GPU one has a thread
    for each token of a frame, which goes through all frames and channels.

    Args:
        patches: `[F, side * side, D]`.
        side: rows and columns of a frame's patches.

    Returns:
        `[F, N, D]`: what `LlavaOnevisionModel.apply_pooling` gives.
    """
    half = math.ceil(side / 2)
    grid = patches.view(len(patches), side, side, -1).permute(0, 3, 1, 2)
    return interpolate(grid, size=(half, half), mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
