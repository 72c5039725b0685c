"""InternVL in vLLM, from checkpoints of transformers' format: "Frame1: " before each frame, pixel shuffle.

How many tokens are left of each frame is known only once the video is encoded, so a merged video has one run
of placeholders and brings the text between its frames along embedded, as Qwen3-VL's does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import interns1 as stock
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.tokenizers import cached_tokenizer_from_config

from holitom.errors import VideoError
from holitom.integrations.vllm.reuse import reuse_of, stacked
from holitom.integrations.vllm.settings import method_of
from holitom.integrations.vllm.vision import KeyedBySettings, LastAttention, among_text, worst_case
from holitom.methods.base import Method
from holitom.tokens import VideoTokens


class MultiModalProcessor(KeyedBySettings, stock.InternS1MultiModalProcessor):
    """A video has `merged_count(T, N)` placeholders, and one for each token of the text between its
    frames."""

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        method = method_of(self.info.get_hf_config())
        if method is None:
            return updates
        tokens = self.info.get_hf_processor(**hf_processor_mm_kwargs).image_seq_length

        def merged(item: int) -> list[int]:
            video = out_mm_kwargs["video"][item]
            if "pixel_values_videos" not in video:
                raise VideoError("video embeddings cannot be merged; send the video itself")
            frames, placeholder = (int(video[name].data) for name in ("video_num_patches", "video_token_id"))
            text = _ids(self.info.get_tokenizer(), frames, tokens=0)
            return [placeholder] * (len(text) + method.merged_count(frames, tokens))

        return [
            replace(update, replacement=merged) if update.modality == "video" else update
            for update in updates
        ]


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor,
    info=stock.InternS1ProcessingInfo,
    dummy_inputs=worst_case(stock.InternS1DummyInputsBuilder),
)
class HoliTomInternVLForConditionalGeneration(stock.InternS1ForConditionalGeneration):
    """Merges the videos of vLLM's model where its config asks for a method."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._method = method_of(self.config)
        if self._method is not None:
            self._tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
            layers = list(self.vision_tower.encoder.layer)
            attentions = [layer.attention.attn for layer in layers]
            self._reuse = reuse_of(self._method, self.config, layers, attentions, vllm_config)
            self._last_attention = LastAttention(attentions[-1], self._method, vllm_config, reuse=self._reuse)

    def _process_vision_input(self, image_input: Any) -> Any:
        if self._method is None or image_input["type"] != "pixel_values_videos":
            return super()._process_vision_input(image_input)
        videos = torch.split(image_input["pixel_values"], image_input["num_patches"].tolist())
        return tuple(self._merged(self._method, pixels) for pixels in videos)

    def _merged(self, method: Method, pixels: Tensor) -> Tensor:
        """Embeddings `[M + m, D]` of one video's merged tokens and of the `m` text tokens between its
        frames."""
        frames = len(pixels)
        size = self.config.vision_config.patch_size
        with stacked(self._reuse, pixels, size), self._last_attention as last:
            features = self.extract_feature(pixels)
            importance, keys = last.importance(frames), last.keys(frames)
        tokens = features.shape[1]
        side = round(tokens**0.5)
        video = VideoTokens(
            features=features,
            importance=self._pooled(importance[:, 1:, None])[..., 0],
            grid=(side, side),
            keys=None if keys is None else self._pooled(keys[:, 1:]),
        )
        ids = torch.tensor(_ids(self._tokenizer, frames, tokens), device=features.device)
        placeholder: Any = self.video_context_token_id
        embed = self.language_model.embed_input_ids
        return among_text(method.merge(video), tokens, ids, placeholder, embed, by_grid=False)[0]

    def _pooled(self, patches: Tensor) -> Tensor:
        """Average `patches` `[T, P, d]` over those that form one token: `[T, N, d]`."""
        side = round(patches.shape[1] ** 0.5)
        square = patches.view(len(patches), side, side, -1)
        shuffled: Tensor = self.pixel_shuffle(square, scale_factor=self.downsample_ratio).flatten(1, 2)
        together = shuffled.view(*shuffled.shape[:2], -1, patches.shape[2])
        return together.mean(dim=2)


def _ids(tokenizer: Any, frames: int, tokens: int) -> list[int]:
    """Ids of a video with `tokens` tokens per frame, as vLLM writes it into a prompt."""
    shown = tokenizer.start_image_token + tokenizer.video_token * tokens + tokenizer.end_image_token
    text = "\n".join(f"Frame{index + 1}: {shown}" for index in range(frames))
    return list(tokenizer.encode(text, add_special_tokens=False))
