"""Qwen2-VL in vLLM: a tower that attends within two frames, positions on three axes."""

from __future__ import annotations

from vllm.model_executor.models import qwen2_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.integrations.vllm.three_axes import CountedByGrid, OnThreeAxes
from holitom.integrations.vllm.vision import worst_case


class MultiModalProcessor(CountedByGrid, stock.Qwen2VLMultiModalProcessor):
    """Adds the counts and cache keys of merged videos to vLLM's processor."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor,
    info=stock.Qwen2VLProcessingInfo,
    dummy_inputs=worst_case(stock.Qwen2VLDummyInputsBuilder),
)
class HoliTomQwen2VLForConditionalGeneration(OnThreeAxes, stock.Qwen2VLForConditionalGeneration):
    """Merges the videos of vLLM's model where its config asks for a method."""
