"""Qwen3-VL and its mixtures of experts in vLLM: time stamps between frames, DeepStack.

How many tokens are left of each frame is known only once the video is encoded, so no prompt can say between
which of its placeholders the time stamps stand. A merged video therefore has one run of placeholders, for its
tokens and for the text between its frames, and brings that text along embedded, each time stamp in its place
(vLLM's own pruning does so too).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.model_executor.models import qwen3_vl as stock
from vllm.model_executor.models import qwen3_vl_moe as stock_moe
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.integrations.vllm.three_axes import CountedByGrid, OnThreeAxes
from holitom.integrations.vllm.vision import worst_case


class MultiModalProcessor(CountedByGrid, stock.Qwen3VLMultiModalProcessor):
    """Adds the counts and cache keys of merged videos to vLLM's processor."""

    def _text_tokens(self, video: Any) -> int:
        times = video["timestamps"].data
        return len(_ids(self.info.get_hf_config(), self.info.get_tokenizer(), times, tokens=0))


class Merging(OnThreeAxes):
    """Merges the videos of both of vLLM's classes, dense and with experts."""

    timing = "timestamps"
    _tokenizer: Any

    def _unmerged_ids(self, grid_thw: Sequence[int], times: Any) -> list[int]:
        height, width = grid_thw[1:]
        return _ids(self.config, self._tokenizer, times, tokens=height * width // self._block)


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor,
    info=stock.Qwen3VLProcessingInfo,
    dummy_inputs=worst_case(stock.Qwen3VLDummyInputsBuilder),
)
class HoliTomQwen3VLForConditionalGeneration(Merging, stock.Qwen3VLForConditionalGeneration):
    """Merges the videos of vLLM's model where its config asks for a method."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor,
    info=stock_moe.Qwen3VLMoeProcessingInfo,
    dummy_inputs=worst_case(stock.Qwen3VLDummyInputsBuilder),
)
class HoliTomQwen3VLMoeForConditionalGeneration(Merging, stock_moe.Qwen3VLMoeForConditionalGeneration):
    """Merges the videos of vLLM's model where its config asks for a method."""


def _ids(config: Any, tokenizer: Any, times: Any, tokens: int) -> list[int]:
    """Ids of a video with `tokens` tokens per frame, for each frame: time stamp, start, tokens, end."""
    prompt = stock.Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=[tokens] * len(times),
        timestamps=times,
        tokenizer=tokenizer,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        video_token_id=config.video_token_id,
    )
    return list(prompt.full)
