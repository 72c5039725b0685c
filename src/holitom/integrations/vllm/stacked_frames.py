"""Base classes of the LLaVA families in vLLM: frames of one size, positions counted as for text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from holitom.integrations.vllm.reuse import reuse_of, stacked
from holitom.integrations.vllm.settings import method_of
from holitom.integrations.vllm.vision import LastAttention
from holitom.methods.base import Method
from holitom.tokens import VideoTokens


class CountedFrames:
    """A mixin for a model's processing info, which counts a video's embeddings before it is encoded.

    A video has `merged_count(T, N)` embeddings and `separators` more.

    Attributes:
        most_frames: largest number of frames of a video in the profiling run.
        separators: number of the model's own tokens after a video.
    """

    most_frames: ClassVar[int] = 32
    separators: ClassVar[int] = 0

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        info: Any = self
        method = method_of(info.get_hf_config())
        if method is None:
            count: int = super().get_num_video_tokens(  # type: ignore[misc]
                image_width=image_width, image_height=image_height, num_frames=num_frames
            )
            return count
        tokens = info._get_num_frame_tokens(image_width=image_width, image_height=image_height)
        return method.merged_count(num_frames, tokens) + self.separators

    def get_num_frames_with_most_features(self, seq_len: int, mm_counts: Mapping[str, int]) -> int:
        """Number of frames for the profiling run. vLLM's own search by length may not end for short
        videos."""
        info: Any = self
        if method_of(info.get_hf_config()) is None:
            frames: int = super().get_num_frames_with_most_features(seq_len, mm_counts)  # type: ignore[misc]
            return frames
        room = seq_len // max(1, mm_counts.get("video", 0))
        width, height = info.get_image_size_with_most_features()
        for frames in range(self.most_frames, 1, -1):
            if self.get_num_video_tokens(image_width=width, image_height=height, num_frames=frames) <= room:
                return frames
        return 1


class StackedFrames:
    """A mixin for a model class, before vLLM's own, that merges videos where the config names a method.

    Attributes:
        leading: number of class tokens before the patches of each frame.
    """

    leading: ClassVar[int] = 0
    config: Any
    vision_tower: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._method = method_of(self.config)
        if self._method is not None:
            # vLLM builds the tower up to the layer whose output becomes the features.
            layers = list(self.vision_tower.vision_model.encoder.layers)
            attentions = [layer.self_attn.attn for layer in layers]
            self._reuse = reuse_of(self._method, self.config, layers, attentions, vllm_config)
            self._last_attention = LastAttention(attentions[-1], self._method, vllm_config, reuse=self._reuse)

    def _process_video_pixels(self, inputs: Any) -> Any:
        if self._method is None:
            return super()._process_video_pixels(inputs)  # type: ignore[misc]
        # One at a time: vLLM plans the tower's work by embeddings, of which merged videos have few.
        return [self._merged(self._method, pixels) for pixels in inputs["pixel_values_videos"]]

    def _merged(self, method: Method, pixels: Tensor) -> Tensor:
        """The embeddings `[M + separators, D]` of one video of `pixels` `[T, 3, H, W]`."""
        model: Any = self
        size = self.config.vision_config.patch_size
        with stacked(self._reuse, pixels, size), self._last_attention as last:
            features: Tensor = model._video_pixels_to_features(self.vision_tower, pixels)
            importance, keys = last.importance(len(pixels)), last.keys(len(pixels))
        side = round(features.shape[1] ** 0.5)
        video = VideoTokens(
            features=features,
            # The model's own pooling, so both are pooled exactly as the features are.
            importance=self._pooled(importance[:, self.leading :, None])[..., 0],
            grid=(side, side),
            keys=None if keys is None else self._pooled(keys[:, self.leading :]),
        )
        merged = method.merge(video).features
        return torch.cat([merged, *self._separators(merged)])

    def _pooled(self, patches: Tensor) -> Tensor:
        """Pool `patches` `[T, P, d]` to tokens `[T, N, d]`."""
        raise NotImplementedError

    def _separators(self, merged: Tensor) -> list[Tensor]:
        """Embeddings of the model's own tokens after a video, each `[n, D]`."""
        return []
