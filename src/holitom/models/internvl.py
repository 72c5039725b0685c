"""InternVL (2.5, 3, 3.5): InternViT with a class token, 2x2 pixel shuffle, frames as images, "Frame1: "."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import Tensor, nn

from holitom.models.marked_frames import MarkedFrames


class InternVL(MarkedFrames):
    """Adapter for `transformers.InternVLForConditionalGeneration`."""

    family: ClassVar[str] = "InternVL"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision_config": ("internvl_vision",),
        "text_config": ("llama", "qwen2", "qwen3", "qwen3_moe"),
    }
    settings: ClassVar[dict[str, tuple[object, ...]]] = {"vision_feature_select_strategy": ("default",)}
    places: ClassVar[tuple[str, str, str]] = ("vision_tower", "encoder.layer", "attention")
    leading: ClassVar[int] = 1
    mark: ClassVar[str] = "<IMG_CONTEXT>"
    first: ClassVar[re.Pattern[str]] = re.compile(r"Frame1: <img>$")
    later: ClassVar[re.Pattern[str]] = re.compile(r"</img>\nFrame[1-9]\d*: <img>")

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        vision = self.config.vision_config
        self._side = vision.image_size[0] // vision.patch_size[0]
        side = int(self._side * self.config.downsample_ratio)
        self.grid = (side, side)

    def heads(self, hidden: Tensor, *which: str) -> list[Tensor]:
        """Project queries and keys; some InternViTs normalise them before dividing them into heads."""
        attention = self.vision_attention
        normed = [
            getattr(attention, f"{name}_norm")(getattr(attention, f"{name}_proj")(hidden)) for name in which
        ]
        return [heads.unflatten(-1, (attention.num_heads, -1)) for heads in normed]

    def shuffle(self, patches: Tensor) -> Tensor:
        trunk = self.trunk
        square = patches.view(len(patches), self._side, self._side, -1)
        shuffled: Tensor = trunk.pixel_shuffle(square, scale_factor=trunk.config.downsample_ratio)
        return shuffled.flatten(1, 2)
