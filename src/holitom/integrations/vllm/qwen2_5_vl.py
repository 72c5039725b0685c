"""Qwen2.5-VL in vLLM: windows in its tower, positions in seconds in its language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import qwen2_5_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.errors import UnsupportedModelError
from holitom.integrations.vllm.settings import method_of
from holitom.integrations.vllm.three_axes import CountedByGrid, OnThreeAxes
from holitom.integrations.vllm.vision import worst_case


class MultiModalProcessor(CountedByGrid, stock.Qwen2_5_VLMultiModalProcessor):
    """Adds the counts and cache keys of merged videos to vLLM's processor."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor,
    info=stock.Qwen2_5_VLProcessingInfo,
    dummy_inputs=worst_case(stock.Qwen2_5_VLDummyInputsBuilder),
)
class HoliTomQwen25VLForConditionalGeneration(OnThreeAxes, stock.Qwen2_5_VLForConditionalGeneration):
    """Merges the videos of vLLM's model where its config asks for a method."""

    timing = "second_per_grid_ts"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        vision: Any = config.vision_config
        if method_of(config) is not None and vision.depth - 1 not in vision.fullatt_block_indexes:
            raise UnsupportedModelError(
                "Qwen2.5-VL whose last vision layer attends within windows; supported: within frames"
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def _pooled(self, patches: Tensor, grid_thw: list[int]) -> Tensor:
        by_window = super()._pooled(patches, grid_thw)  # the tower's order
        order: Tensor = self.visual.get_rope_by_thw(*grid_thw)[2].to(by_window.device)
        pooled = torch.empty_like(by_window)
        pooled.view(-1, pooled.shape[-1]).index_copy_(0, order, by_window.flatten(0, 1))
        return pooled
