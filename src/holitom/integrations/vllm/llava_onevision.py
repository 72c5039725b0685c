"""LLaVA-OneVision in vLLM: SigLIP tower, 2x2 bilinear pooling, one newline token a video."""

from __future__ import annotations

from torch import Tensor
from vllm.model_executor.models import llava_onevision as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.integrations.vllm.stacked_frames import CountedFrames, StackedFrames
from holitom.integrations.vllm.vision import KeyedBySettings, worst_case


class ProcessingInfo(CountedFrames, stock.LlavaOnevisionProcessingInfo):
    """Adds the counts of merged videos to vLLM's processing info."""

    most_frames = stock._MAX_FRAMES_PER_VIDEO
    separators = 1


class MultiModalProcessor(KeyedBySettings, stock.LlavaOnevisionMultiModalProcessor):
    """Adds the cache keys of merged videos to vLLM's processor."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=ProcessingInfo, dummy_inputs=worst_case(stock.LlavaOnevisionDummyInputsBuilder)
)
class HoliTomLlavaOnevisionForConditionalGeneration(
    StackedFrames, stock.LlavaOnevisionForConditionalGeneration
):
    """Merges the videos of vLLM's model where its config asks for a method."""

    def _pooled(self, patches: Tensor) -> Tensor:
        pooled: Tensor = self.apply_pooling(patches)
        return pooled

    def _separators(self, merged: Tensor) -> list[Tensor]:
        return [self.image_newline[None].to(merged)]
