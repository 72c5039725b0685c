"""Qwen3-VL (2B to 32B), its mixtures of experts and Cosmos3: time stamps between frames, DeepStack, Qwen3."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb, apply_rotary_pos_emb_vision

from holitom.models.packed import PackedTower
from holitom.ops.ragged import compact


class Qwen3VL(PackedTower):
    """Adapter for `transformers.Qwen3VLForConditionalGeneration` and `Qwen3VLMoeForConditionalGeneration`.

    It has DeepStack: features of earlier layers of the tower are added to the visual tokens behind the first
    layers of the language model. They are `VideoTokens.streams`.
    """

    family: ClassVar[str] = "Qwen3-VL"
    rotate = staticmethod(apply_rotary_pos_emb)
    rotate_vision = staticmethod(apply_rotary_pos_emb_vision)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        # The model ignores streams beyond its number of layers.
        deep = len(getattr(self.config.vision_config, "deepstack_visual_indexes", None) or ())
        self.streams = min(deep, len(self.layers))
        if self.streams:
            self.language_arguments = ("visual_pos_masks", "deepstack_visual_embeds")

    def streams_of(self, encoded: Any, index: int, shape: tuple[int, int]) -> Tensor | None:
        if not self.streams:
            return None
        deep = [features[index] for features in encoded.deepstack_features[: self.streams]]
        return torch.cat(deep, dim=-1).view(*shape, -1)

    def streamed(self, arguments: dict[str, Any], columns: tuple[int, int]) -> list[Tensor]:
        embeds: list[Tensor] = (arguments.get("deepstack_visual_embeds") or [])[: self.streams]
        if not embeds:  # a prompt without visual tokens
            return []
        shown: Tensor = arguments["visual_pos_masks"]
        at = compact(shown.flatten(), len(embeds[0]))
        empty = embeds[0].new_zeros(columns[0] * columns[1], embeds[0].shape[-1])
        return [empty.index_copy(0, at, features).view(*columns, -1) for features in embeds]

    def stream_arguments(self, streams: list[Tensor], stands: Tensor) -> dict[str, Any]:
        return {"visual_pos_masks": stands, "deepstack_visual_embeds": streams}


class Cosmos3(Qwen3VL):
    """Adapter for `transformers.Cosmos3OmniForConditionalGeneration`, the same model as Qwen3-VL."""

    family: ClassVar[str] = "Cosmos3"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "text_config": ("qwen3_vl_text",),
        "vision_config": ("qwen3_vl_vision",),
    }
