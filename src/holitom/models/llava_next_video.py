"""LLaVA-NeXT-Video (7B, 34B): CLIP tower, 2x2 average pooling before the projector, no separators."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from holitom.models.framed import StackedFrames


class LlavaNextVideo(StackedFrames):
    """Adapter for `transformers.LlavaNextVideoForConditionalGeneration`.

    Features are the output of the last layer but one, so importance is read in that layer.
    """

    family: ClassVar[str] = "LLaVA-NeXT-Video"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision_config": ("clip_vision_model",),
        "text_config": ("llama", "mistral", "qwen2"),
    }
    settings: ClassVar[dict[str, tuple[object, ...]]] = {
        "vision_feature_select_strategy": ("default",),
        # Pooling by a convolution mixes channels, so it cannot be applied to importance.
        "spatial_pool_mode": ("average", "max"),
    }
    leading: ClassVar[int] = 1

    def frame_grid(self) -> tuple[int, int]:
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size // self.config.spatial_pool_stride
        return side, side

    def features(self, sent: Any) -> Tensor:
        return sent if isinstance(sent, Tensor) else torch.cat(sent)  # transformers 5.19 splits it by video

    def pool(self, patches: Tensor) -> Tensor:
        pooled: Tensor = self.trunk.vision_resampler(patches)
        return pooled
