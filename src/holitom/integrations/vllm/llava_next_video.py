"""LLaVA-NeXT-Video in vLLM: CLIP tower with a class token, 2x2 average pooling, no separators."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models import llava_next_video as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.errors import UnsupportedModelError
from holitom.integrations.vllm.settings import method_of
from holitom.integrations.vllm.stacked_frames import CountedFrames, StackedFrames
from holitom.integrations.vllm.vision import KeyedBySettings, worst_case


class ProcessingInfo(CountedFrames, stock.LlavaNextVideoProcessingInfo):
    """Adds the counts of merged videos to vLLM's processing info."""


class MultiModalProcessor(KeyedBySettings, stock.LlavaNextVideoMultiModalProcessor):
    """Adds the cache keys of merged videos to vLLM's processor."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=ProcessingInfo, dummy_inputs=worst_case(stock.LlavaNextVideoDummyInputsBuilder)
)
class HoliTomLlavaNextVideoForConditionalGeneration(
    StackedFrames, stock.LlavaNextVideoForConditionalGeneration
):
    """Merges the videos of vLLM's model where its config asks for a method."""

    leading = 1

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        tower, strategy = config.vision_config.model_type, config.vision_feature_select_strategy
        if method_of(config) is not None and (tower, strategy) != ("clip_vision_model", "default"):
            raise UnsupportedModelError(
                f"LLaVA-NeXT-Video with {tower} and vision_feature_select_strategy={strategy!r}; supported: "
                "clip_vision_model and 'default'"
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def _pooled(self, patches: Tensor) -> Tensor:
        pooled: Tensor = self.vision_resampler(patches)
        return pooled
