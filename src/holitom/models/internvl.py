"""InternVL (2.5, 3, 3.5): InternViT with a class token, 2x2 pixel shuffle, frames as images, "Frame1: "."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import Tensor, nn

from holitom.models.marked_frames import MarkedFrames
from holitom.models.one_axis import feature_layer


class InternVL(MarkedFrames):
    """Adapter for `transformers.InternVLForConditionalGeneration`."""

    family: ClassVar[str] = "InternVL"
    towers: ClassVar[tuple[str, ...]] = ("internvl_vision",)
    decoders: ClassVar[tuple[str, ...]] = ("llama", "qwen2", "qwen3", "qwen3_moe")
    leading: ClassVar[int] = 1
    mark: ClassVar[str] = "<IMG_CONTEXT>"
    first: ClassVar[re.Pattern[str]] = re.compile(r"Frame1: <img>$")
    later: ClassVar[re.Pattern[str]] = re.compile(r"</img>\nFrame[1-9]\d*: <img>")

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._check_parts(config)
        strategy = config.vision_feature_select_strategy
        self._supported("vision_feature_select_strategy", strategy, ("default",))
        trunk: Any = model.model
        self.trunk = trunk
        self.language_model = trunk.language_model
        self.layers = trunk.language_model.layers
        layer = feature_layer(trunk.vision_tower.encoder.layer, config.vision_feature_layer)
        self.vision_attention = self._readable(layer.attention)
        self.image_token = int(config.image_token_id)
        self._model = model
        vision = config.vision_config
        height, width = vision.image_size
        self.image = (vision.num_channels, height, width)
        self._side = height // vision.patch_size[0]
        side = int(self._side * config.downsample_ratio)
        self.grid = (side, side)

    def shuffle(self, patches: Tensor) -> Tensor:
        trunk: Any = self.trunk
        square = patches.view(len(patches), self._side, self._side, -1)
        shuffled: Tensor = trunk.pixel_shuffle(square, scale_factor=trunk.config.downsample_ratio)
        return shuffled.flatten(1, 2)
