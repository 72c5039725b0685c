"""SmolVLM2 (256M, 500M, 2.2B): SigLIP tower, pixel shuffle, frames as images, "Frame from 00:01:"."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import Tensor, nn

from holitom.models.marked_frames import MarkedFrames
from holitom.models.parts import Parts, RowsOfImages


class SmolVLM(MarkedFrames):
    """Adapter for `transformers.SmolVLMForConditionalGeneration`."""

    family: ClassVar[str] = "SmolVLM"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision_config": ("smolvlm_vision",),
        "text_config": ("llama",),
    }
    places: ClassVar[tuple[str, str, str]] = ("vision_model", "encoder.layers", "self_attn")
    decoder: ClassVar[str] = "text_model"
    mark: ClassVar[str] = "<image>"
    _opening = r"\nFrame from \d\d+:\d\d:<fake_token_around_image><global-img>"
    first: ClassVar[re.Pattern[str]] = re.compile(rf"\[H:MM:SS\] video\.\n{_opening}$")
    later: ClassVar[re.Pattern[str]] = re.compile(rf"<fake_token_around_image>{_opening}")

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size // self.config.scale_factor
        self.grid = (side, side)

    def shown(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(2).any(-1)  # an image of zeros is padding, which the model drops

    def in_parts(self, arguments: dict[str, Any]) -> Parts | None:
        shown = self.shown(arguments["pixel_values"])
        return RowsOfImages(arguments, shown) if bool(shown.any()) else None

    def shuffle(self, patches: Tensor) -> Tensor:
        connector = self.trunk.connector
        shuffled: Tensor = connector.pixel_shuffle(patches, connector.scale_factor)
        return shuffled
