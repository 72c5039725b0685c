"""LLaVA-OneVision in vLLM: SigLIP tower, 2x2 bilinear pooling, one newline token a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import llava_onevision as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.integrations.vllm.settings import method_of
from holitom.integrations.vllm.vision import KeyedBySettings, LastAttention
from holitom.methods.base import Method
from holitom.tokens import VideoTokens


class ProcessingInfo(stock.LlavaOnevisionProcessingInfo):
    """Counts before content: a video has `merged_count(T, N)` embeddings and the newline's."""

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        method = method_of(self.get_hf_config())
        if method is None:
            count: int = super().get_num_video_tokens(
                image_width=image_width, image_height=image_height, num_frames=num_frames
            )
            return count
        tokens = self._get_num_frame_tokens(image_width=image_width, image_height=image_height)
        return method.merged_count(num_frames, tokens) + 1

    def get_num_frames_with_most_features(self, seq_len: int, mm_counts: Mapping[str, int]) -> int:
        """For the profiling run. Merged videos are short, so vLLM's search by length could go on for ever."""
        if method_of(self.get_hf_config()) is None:
            frames: int = super().get_num_frames_with_most_features(seq_len, mm_counts)
            return frames
        room = seq_len // max(1, mm_counts.get("video", 0))
        width, height = self.get_image_size_with_most_features()
        for frames in range(stock._MAX_FRAMES_PER_VIDEO, 1, -1):
            if self.get_num_video_tokens(image_width=width, image_height=height, num_frames=frames) <= room:
                return frames
        return 1


class MultiModalProcessor(KeyedBySettings, stock.LlavaOnevisionMultiModalProcessor):
    """vLLM's, with counts and cache keys of merged videos."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=ProcessingInfo, dummy_inputs=stock.LlavaOnevisionDummyInputsBuilder
)
class HoliTomLlavaOnevisionForConditionalGeneration(stock.LlavaOnevisionForConditionalGeneration):
    """vLLM's class; where the config asks for a method, videos leave it merged."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._method = method_of(self.config)
        if self._method is not None:
            last = self.vision_tower.vision_model.encoder.layers[-1].self_attn
            self._last_attention = LastAttention(last.attn, last.qkv_proj, self._method, vllm_config)

    def _process_video_pixels(self, inputs: Any) -> Any:
        if self._method is None:
            return super()._process_video_pixels(inputs)
        # One at a time: vLLM plans the tower's work by embeddings, of which merged videos have few.
        return [self._merged(self._method, pixels) for pixels in inputs["pixel_values_videos"]]

    def _merged(self, method: Method, pixels: Tensor) -> Tensor:
        """`[M + 1, D]`: what the language model gets for one video's `pixels` `[T, 3, H, W]`."""
        with self._last_attention as last:
            features = self._video_pixels_to_features(self.vision_tower, pixels)
            importance, keys = last.importance(len(pixels)), last.keys(len(pixels))
        side = round(features.shape[1] ** 0.5)
        video = VideoTokens(
            features=features,
            # The model's own pooling, so both are interpolated exactly as the features are.
            importance=self.apply_pooling(importance[..., None])[..., 0],
            grid=(side, side),
            keys=None if keys is None else self.apply_pooling(keys),
        )
        merged = method.merge(video).features
        return torch.cat([merged, self.image_newline[None].to(merged)])
