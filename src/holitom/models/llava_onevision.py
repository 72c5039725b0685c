"""LLaVA-OneVision (0.5B, 7B, 72B): SigLIP tower, 2x2 bilinear pooling, one newline token a video, Qwen2."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.models.base import SentTokens
from holitom.models.one_axis import StackedFrames
from holitom.tokens import MergedTokens, VideoTokens


class LlavaOnevision(StackedFrames):
    """Adapter for `transformers.LlavaOnevisionForConditionalGeneration`."""

    family: ClassVar[str] = "LLaVA-OneVision"
    towers: ClassVar[tuple[str, ...]] = ("siglip_vision_model", "siglip")
    decoders: ClassVar[tuple[str, ...]] = ("qwen2",)

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._check_parts(config)
        strategy = config.vision_feature_select_strategy
        self._supported("vision_feature_select_strategy", strategy, ("full",))
        self._find(model)
        vision = config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        self.grid = (side, side)

    def pool(self, patches: Tensor) -> Tensor:
        trunk: Any = self.trunk
        pooled: Tensor = trunk.apply_pooling(patches)
        return pooled

    def features(self, sent: Tensor) -> Tensor:
        return sent[:, :-1]  # the last one is the newline

    def count(self, frames: int) -> int:
        return super().count(frames) + 1

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        trunk: Any = self.trunk
        sent = super().send(video, merged)
        newline = trunk.image_newline[None].to(sent.features)
        last = torch.full_like(sent.slot[:1], self.slots(video) - 1)
        return SentTokens(
            features=torch.cat([sent.features, newline]),
            slot=torch.cat([sent.slot, last]),
            place=torch.cat([sent.slot, torch.full_like(last, -1)]),
        )
