"""Qwen3.5 and its mixtures of experts in vLLM: Qwen3-VL's prompts and tower, layers that carry a state."""

from __future__ import annotations

from vllm.model_executor.models import qwen3_5 as stock
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.integrations.vllm.qwen3_vl import Merging, MultiModalProcessor
from holitom.integrations.vllm.vision import worst_case


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=stock.Qwen3_5ProcessingInfo, dummy_inputs=worst_case(Qwen3VLDummyInputsBuilder)
)
class HoliTomQwen35ForConditionalGeneration(Merging, stock.Qwen3_5ForConditionalGeneration):
    """Merges the videos of vLLM's model where its config asks for a method."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor,
    info=stock.Qwen3_5MoeProcessingInfo,
    dummy_inputs=worst_case(Qwen3VLDummyInputsBuilder),
)
class HoliTomQwen35MoeForConditionalGeneration(Merging, stock.Qwen3_5MoeForConditionalGeneration):
    """Merges the videos of vLLM's model where its config asks for a method."""
