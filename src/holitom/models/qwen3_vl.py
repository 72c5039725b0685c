"""Qwen3-VL (2B to 32B), its mixtures of experts and Cosmos3: time stamps between frames, DeepStack, Qwen3."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb, apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from holitom.models.multi_axis import MultiAxis
from holitom.ops.ragged import compact


class Qwen3VL(MultiAxis):
    """Adapter for `transformers.Qwen3VLForConditionalGeneration` and `Qwen3VLMoeForConditionalGeneration`.

    DeepStack: features of earlier layers of the tower are added to the visual tokens behind the first
    layers of the language model. They merge with the same weights as the features do.
    """

    name = "Qwen3-VL"
    rotate = staticmethod(apply_rotary_pos_emb)
    rotate_vision = staticmethod(apply_rotary_pos_emb_vision)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.streams = len(getattr(self._config.vision_config, "deepstack_visual_indexes", ()))

    def _streams_of(self, encoded: Any, index: int, shape: tuple[int, int]) -> Tensor | None:
        if not self.streams:
            return None
        deep = [features[index] for features in encoded.deepstack_features]
        return torch.cat(deep, dim=-1).view(*shape, -1)

    def streamed(self, arguments: dict[str, Any], columns: tuple[int, int]) -> list[Tensor]:
        embeds: list[Tensor] = arguments.get("deepstack_visual_embeds") or []
        if not embeds:  # text alone
            return []
        shown: Tensor = arguments["visual_pos_masks"]
        at = compact(shown.flatten(), len(embeds[0]))
        empty = embeds[0].new_zeros(columns[0] * columns[1], embeds[0].shape[-1])
        return [empty.index_copy(0, at, features).view(*columns, -1) for features in embeds]

    def stream_arguments(self, streams: list[Tensor], stands: Tensor) -> dict[str, Any]:
        return {"visual_pos_masks": stands, "deepstack_visual_embeds": streams}

    def encode(self, arguments: dict[str, Any]) -> Any:
        tower = self.tower
        at, weights = get_vision_interpolation_indices_and_weights(
            arguments["video_grid_thw"],
            tower.num_grid_per_side,
            tower.interpolation_mode,
            tower.interpolation_align_corners,
            self._merge,
        )
        places = {"video_interp_indices": at.to("meta"), "video_interp_weights": weights.to("meta")}
        return super().encode({**arguments, **places})

    def video_processor(self) -> Any:
        # What the checkpoints' own settings say; the class's defaults would leave 36 tokens a frame.
        return Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 25165824})


class Cosmos3(Qwen3VL):
    """Adapter for `transformers.Cosmos3OmniForConditionalGeneration`, NVIDIA's reasoner: the same model."""

    name = "Cosmos3"
    parts: ClassVar[dict[str, str]] = {"text_config": "qwen3_vl_text", "vision_config": "qwen3_vl_vision"}
