"""Qwen2.5-VL in vLLM: windows in its tower, positions on three axes in its language model.

Text stands where it would stand behind the whole video, which shapes alone say; which positions the merged
tokens have is known only once the video is encoded. vLLM has a way for that (its own pruning uses it): the
positions travel beside the features, as further channels of the embeddings, and the runner asks the model
to take them off (`recompute_mrope_positions`) whenever it schedules some of a video's tokens. Its CPU runner
does not ask; there they come as far as `embed_input_ids`, and `forward` puts them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.models import qwen2_5_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from holitom.errors import UnsupportedModelError, UnsupportedUsageError, VideoError
from holitom.integrations.vllm.settings import method_of
from holitom.integrations.vllm.vision import KeyedBySettings, LastAttention
from holitom.methods.base import Method
from holitom.tokens import VideoTokens

DIGIT = 256
"""Positions travel as two digits an axis: bfloat16 holds whole numbers up to 256 exactly."""


class MultiModalProcessor(KeyedBySettings, stock.Qwen2_5_VLMultiModalProcessor):
    """Counts before content: a video has `merged_count(T, N)` placeholders."""

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        method = method_of(self.info.get_hf_config())
        if method is None:
            return updates
        block = self.info.get_image_processor(**hf_processor_mm_kwargs).merge_size ** 2

        def merged(placeholder: list[int], item: int) -> list[int]:
            video = out_mm_kwargs["video"][item]
            if "pixel_values_videos" not in video:
                raise VideoError("video embeddings cannot be merged; send the video itself")
            frames, height, width = video["video_grid_thw"].data.tolist()
            return placeholder * method.merged_count(frames, height * width // block)

        def counted(update: Any) -> Any:
            if update.modality != "video":
                return update
            return replace(update, replacement=lambda item: merged(update.target, item))

        return [counted(update) for update in updates]


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=stock.Qwen2_5_VLProcessingInfo, dummy_inputs=stock.Qwen2_5_VLDummyInputsBuilder
)
class HoliTomQwen25VLForConditionalGeneration(stock.Qwen2_5_VLForConditionalGeneration):
    """vLLM's class; where the config asks for a method, videos leave it merged."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        model_config = vllm_config.model_config
        method = method_of(model_config.hf_config)
        if method is not None:
            _refuse(vllm_config)
            # The runner asks for positions where vLLM is set to prune; by how much does not matter to it.
            model_config.multimodal_config.video_pruning_rate = 0.5
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._method = method
        self._ahead: tuple[Tensor, Tensor] | None = None
        if method is not None:
            self.is_multimodal_pruning_enabled = False  # here, merging takes its place
            last = self.visual.blocks[-1].attn
            self._last_attention = LastAttention(last.attn, last.qkv, method, vllm_config)

    def _process_video_input(self, video_input: Any) -> Any:
        if self._method is None:
            return super()._process_video_input(video_input)
        grids = video_input["video_grid_thw"].tolist()
        videos = torch.split(video_input["pixel_values_videos"], [t * h * w for t, h, w in grids])
        seconds = video_input.get("second_per_grid_ts")
        return tuple(
            self._merged(self._method, pixels, grid, 1.0 if seconds is None else seconds[index].item())
            for index, (pixels, grid) in enumerate(zip(videos, grids, strict=True))
        )

    def _merged(self, method: Method, pixels: Tensor, grid_thw: list[int], seconds: float) -> Tensor:
        """`[M, D + 6]`: one video's merged tokens and their positions, relative to the video's first."""
        frames = grid_thw[0]
        rows, columns = (side // self.visual.spatial_merge_size for side in grid_thw[1:])
        with self._last_attention as last:
            features: Tensor = self.visual(pixels, grid_thw=[grid_thw])
            importance, keys = last.importance(frames), last.keys(frames)
        video = VideoTokens(
            features=features.view(frames, rows * columns, -1),
            importance=self._pooled(importance[..., None], grid_thw)[..., 0],
            grid=(rows, columns),
            keys=None if keys is None else self._pooled(keys, grid_thw),
        )
        merged = method.merge(video)
        slot, order = (merged.frame * rows * columns + merged.position).sort()
        frame, place = slot // (rows * columns), slot % (rows * columns)
        shown = (frame.double() * seconds * self._tokens_per_second).long()
        own = torch.stack([shown, place // columns, place % columns], dim=1)
        digits = torch.cat([own // DIGIT, own % DIGIT], dim=1)
        return torch.cat([merged.features[order], digits.to(merged.features.dtype)], dim=1)

    def _pooled(self, patches: Tensor, grid_thw: list[int]) -> Tensor:
        """`[T, P, d]` of patches in the tower's order of windows to `[T, N, d]` of tokens in the grid's."""
        unit: int = self.visual.spatial_merge_unit
        blocks = patches.reshape(-1, unit, patches.shape[-1]).mean(dim=1)
        order: Tensor = self.visual.get_rope_by_thw(*grid_thw)[2].to(blocks.device)
        pooled = torch.empty_like(blocks).index_copy(0, order, blocks)
        return pooled.view(grid_thw[0], -1, patches.shape[-1])

    @property
    def _tokens_per_second(self) -> float:
        return float(getattr(self.config.vision_config, "tokens_per_second", 1.0))

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Any) -> tuple[Tensor, int]:
        """Positions `[3, L]`; merged videos have that of their first token until they are encoded."""
        if self._method is None:
            stock_positions: tuple[Tensor, int] = super().get_mrope_input_positions(input_tokens, mm_features)
            return stock_positions
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        pieces, at, start = [], 0, 0
        for feature, (offset, *grid, pace) in zip(features, self.iter_mm_grid_thw(features), strict=True):
            length = feature.mm_position.length
            pieces.append(np.tile(np.arange(start, start + offset - at), (3, 1)))
            start, at = start + offset - at, offset + length
            whole = np.indices(grid).reshape(3, -1)
            whole[0] = (whole[0] * pace).astype(np.int64)
            pieces.append(start + (whole if feature.modality == "image" else np.zeros((3, length), np.int64)))
            start += int(whole.max()) + 1
        pieces.append(np.tile(np.arange(start, start + len(input_tokens) - at), (3, 1)))
        end = start + len(input_tokens) - at
        return torch.from_numpy(np.concatenate(pieces, axis=1)), end - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Embeddings without their positions, and positions `[3, L]` with those filled in.

        `multimodal_embeddings` are those of the placeholders from `num_computed_tokens` on, the first and
        the last of them in part where the prefill is chunked.
        """
        if self._method is None:
            recomputed: tuple[Sequence[Tensor], Tensor, int] = super().recompute_mrope_positions(
                input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens
            )
            return recomputed
        positions = mrope_positions.clone()
        ids = torch.as_tensor(input_ids, device=positions.device)
        media = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
        text = (~media).nonzero().squeeze(1)
        at = media[num_computed_tokens:].nonzero().squeeze(1) + num_computed_tokens
        stripped, start = [], 0
        for embedding in multimodal_embeddings:
            where = at[start : start + len(embedding)]
            start += len(embedding)
            features, own = self._parted(embedding)
            if own is not None:
                before = text[text < where[0]][-1]  # the token that opens the video
                positions[:, where] = (positions[:, before] + 1)[:, None] + own.to(positions.device)
            stripped.append(features)
        return stripped, positions, int(positions.max()) + 1 - len(ids)

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        self._ahead = None
        if self._method is not None and multimodal_embeddings is not None and is_multimodal is not None:
            parted = [self._parted(embedding) for embedding in multimodal_embeddings]
            multimodal_embeddings = [features for features, _ in parted]
            if any(own is not None for _, own in parted):
                ahead = [
                    is_multimodal.new_zeros(3, len(features), dtype=torch.int64) if own is None else own
                    for features, own in parted
                ]
                self._ahead = (is_multimodal.nonzero().squeeze(1), torch.cat(ahead, dim=1))
        embedded: Tensor = super().embed_input_ids(
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return embedded

    def forward(self, input_ids: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._ahead is not None:
            (at, own), self._ahead = self._ahead, None
            positions[:, at] += own  # the runner fills its buffer anew at every step
        return super().forward(input_ids, positions, *args, **kwargs)

    def _parted(self, embedding: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `[n, D]`, and `[3, n]` positions relative to the video's first where those came along."""
        width = self.config.get_text_config().hidden_size
        if embedding.shape[1] == width:
            return embedding, None
        high, low = embedding[:, width:].long().chunk(2, dim=1)
        return embedding[:, :width], (high * DIGIT + low).T


def _refuse(vllm_config: Any) -> None:
    config = vllm_config.model_config.hf_config
    vision: Any = config.vision_config
    if vision.depth - 1 not in vision.fullatt_block_indexes:
        raise UnsupportedModelError(
            "Qwen2.5-VL whose last vision layer attends within windows; supported: within frames"
        )
    if vllm_config.model_config.multimodal_config.mm_encoder_tp_mode == "data":
        raise UnsupportedUsageError(
            "holitom reads the vision tower's last layer, which --mm-encoder-tp-mode data scatters; "
            "use --mm-encoder-tp-mode weights"
        )
    if vllm_config.speculative_config is not None or vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise UnsupportedUsageError(
            "Qwen2.5-VL is merged without speculative decoding and without pipeline parallel only: the "
            "positions of merged tokens reach neither drafters nor later stages"
        )
