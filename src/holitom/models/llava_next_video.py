"""LLaVA-NeXT-Video (7B, 34B): CLIP tower, 2x2 average pooling before the projector, no separators."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.models.one_axis import StackedFrames


class LlavaNextVideo(StackedFrames):
    """Adapter for `transformers.LlavaNextVideoForConditionalGeneration`.

    Features are those of the last layer but one, and importance is that layer's: what the last one attends to
    is not in them.
    """

    family: ClassVar[str] = "LLaVA-NeXT-Video"
    towers: ClassVar[tuple[str, ...]] = ("clip_vision_model",)
    decoders: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2")
    leading: ClassVar[int] = 1

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._check_parts(config)
        strategy = config.vision_feature_select_strategy
        self._supported("vision_feature_select_strategy", strategy, ("default",))
        # A convolution mixes channels: it has no counterpart for importance.
        self._supported("spatial_pool_mode", config.spatial_pool_mode, ("average", "max"))
        self._find(model)
        vision = config.vision_config
        side = vision.image_size // vision.patch_size // config.spatial_pool_stride
        self.grid = (side, side)

    def features(self, sent: Any) -> Tensor:
        return sent if isinstance(sent, Tensor) else torch.cat(sent)  # transformers 5.19 splits it by video

    def pool(self, patches: Tensor) -> Tensor:
        trunk: Any = self.trunk
        pooled: Tensor = trunk.vision_resampler(patches)
        return pooled
