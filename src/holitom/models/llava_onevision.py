"""LLaVA-OneVision (0.5B, 7B, 72B): SigLIP tower, 2x2 bilinear pooling, one newline token per video, Qwen2."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import LlavaOnevisionModel

from holitom.models.framed import StackedFrames
from holitom.models.values import SentTokens
from holitom.ops.pooling import pool
from holitom.tokens import MergedTokens, VideoTokens
from holitom.wrapping import Instead


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
        return pool(patches, vision.image_size // vision.patch_size, "bilinear", 2)

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
