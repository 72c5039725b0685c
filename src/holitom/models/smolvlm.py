"""SmolVLM2 (256M, 500M, 2.2B): SigLIP tower, pixel shuffle, frames as images, "Frame from 00:01:"."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from holitom.models.marked_frames import MarkedFrames


class SmolVLM(MarkedFrames):
    """Adapter for `transformers.SmolVLMForConditionalGeneration`."""

    family: ClassVar[str] = "SmolVLM"
    towers: ClassVar[tuple[str, ...]] = ("smolvlm_vision",)
    decoders: ClassVar[tuple[str, ...]] = ("llama",)
    mark: ClassVar[str] = "<image>"
    _opening = r"\nFrame from \d\d+:\d\d:<fake_token_around_image><global-img>"
    first: ClassVar[re.Pattern[str]] = re.compile(rf"\[H:MM:SS\] video\.\n{_opening}$")
    later: ClassVar[re.Pattern[str]] = re.compile(rf"<fake_token_around_image>{_opening}")

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._check_parts(config)
        trunk: Any = model.model
        self.trunk = trunk
        self.language_model = trunk.text_model
        self.layers = trunk.text_model.layers
        self.vision_attention = self._readable(trunk.vision_model.encoder.layers[-1].self_attn)
        self.image_token = int(config.image_token_id)
        self._model = model
        vision = config.vision_config
        self.image = (vision.num_channels, vision.image_size, vision.image_size)
        side = vision.image_size // vision.patch_size // config.scale_factor
        self.grid = (side, side)

    def shown(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(2).any(-1)  # what is all zero fills a row up, and the model drops it

    def shuffle(self, patches: Tensor) -> Tensor:
        connector: Any = self.trunk.connector
        shuffled: Tensor = connector.pixel_shuffle(patches, connector.scale_factor)
        return shuffled

    def encoding(self, frames: int, width: int, height: int) -> dict[str, Any]:
        return {"pixel_values": torch.empty(1, frames, *self.image, device="meta")}

    def encode(self, arguments: dict[str, Any]) -> Any:
        # `get_image_features` asks for values: which images are all zero, and where their padding is.
        trunk: Any = self.trunk
        tower, pixels = trunk.vision_model, arguments["pixel_values"].flatten(0, 1)
        shape = (len(pixels), *2 * (pixels.shape[-1] // tower.patch_size,))
        hidden = tower.embeddings(pixels, torch.ones(shape, dtype=torch.bool, device=pixels.device))
        hidden = tower.post_layernorm(tower.encoder(hidden).last_hidden_state)
        return BaseModelOutputWithPooling(pooler_output=trunk.connector(hidden))
