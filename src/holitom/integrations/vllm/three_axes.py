"""Base classes of Qwen's families in vLLM: merged tokens keep their position ids on three axes.

Text has the position ids that it would have in the unmerged prompt, which follow from shapes; those of the
merged tokens are known only once the video is encoded. They are passed as vLLM's own pruning passes them: as
further channels of the embeddings, which the runner has the model split off (`recompute_mrope_positions`)
whenever it schedules some of a video's tokens. vLLM's CPU runner does not call that method; there
`embed_input_ids` splits them off, and `forward` adds them to the positions.

All position ids are those that vLLM's own code gives the unmerged prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.multimodal.inputs import PlaceholderRange

from holitom.errors import UnsupportedUsageError, VideoError
from holitom.integrations.vllm.reuse import packed, reuse_of
from holitom.integrations.vllm.settings import method_of
from holitom.integrations.vllm.vision import KeyedBySettings, LastAttention, among_text
from holitom.methods.base import Method
from holitom.tokens import VideoTokens

DIGIT = 256
"""Base of the two digits in which a position is passed on each axis: bfloat16 is exact up to 256."""


class CountedByGrid(KeyedBySettings):
    """A mixin for a multimodal processor, which counts a video's placeholders before it is encoded.

    A video has `merged_count(T, N)` placeholders, and one for each token of the text between its frames.
    """

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, hf_processor_mm_kwargs, out_mm_kwargs
        )
        config = self.info.get_hf_config()
        method = method_of(config)
        if method is None:
            return updates
        block = config.vision_config.spatial_merge_size**2

        def merged(placeholder: list[int], item: int) -> list[int]:
            video = out_mm_kwargs["video"][item]
            if "pixel_values_videos" not in video:
                raise VideoError("video embeddings cannot be merged; send the video itself")
            frames, height, width = video["video_grid_thw"].data.tolist()
            count = method.merged_count(frames, height * width // block)
            return placeholder * (count + self._text_tokens(video))

        def counted(update: Any) -> Any:
            if update.modality != "video":
                return update
            return replace(update, replacement=lambda item: merged(update.target, item))

        return [counted(update) for update in updates]

    def _text_tokens(self, video: Any) -> int:
        """Number of text tokens between the frames of `video`, a processed item."""
        return 0


class OnThreeAxes:
    """A mixin for a model class, before vLLM's own, that merges videos where the config names a method.

    Attributes:
        timing: name of the processed video's field that has the times of its frames.
    """

    timing: ClassVar[str | None] = None
    config: Any
    visual: Any
    language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        model_config = vllm_config.model_config
        method = method_of(model_config.hf_config)
        if method is not None:
            _refuse(vllm_config)
            # The runner has positions split off where vLLM is set to prune; the rate itself is not used.
            model_config.multimodal_config.video_pruning_rate = 0.5
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._method = method
        self._ahead: tuple[Tensor, Tensor] | None = None
        if method is not None:
            self.supports_multimodal_pruning = True
            self.is_multimodal_pruning_enabled = False  # here, merging takes its place
            layers = list(self.visual.blocks)
            attentions = [layer.attn.attn for layer in layers]
            deep = getattr(self.visual, "deepstack_visual_indexes", ())
            whole = getattr(self.visual, "fullatt_block_indexes", range(len(layers)))
            self._reuse = reuse_of(
                method,
                self.config,
                layers,
                attentions,
                vllm_config,
                deep=deep,
                windowed=set(range(len(layers))).difference(whole),
            )
            self._last_attention = LastAttention(
                attentions[-1], method, vllm_config, layers[-1].attn.qkv, self._reuse
            )

    def _process_video_input(self, video_input: Any) -> Any:
        if self._method is None:
            return super()._process_video_input(video_input)  # type: ignore[misc]
        grids = video_input["video_grid_thw"].tolist()
        videos = torch.split(video_input["pixel_values_videos"], [t * h * w for t, h, w in grids])
        times = None if self.timing is None else video_input.get(self.timing)
        return tuple(
            self._merged(self._method, pixels, grid, None if times is None else times[index])
            for index, (pixels, grid) in enumerate(zip(videos, grids, strict=True))
        )

    def _merged(self, method: Method, pixels: Tensor, grid_thw: list[int], times: Any) -> Tensor:
        """Embeddings of one video's placeholders with positions relative to the first one's: `[M, D + 6]`."""
        frames = grid_thw[0]
        rows, columns = (side // self.visual.spatial_merge_size for side in grid_thw[1:])
        size = self.config.vision_config.patch_size
        with packed(self._reuse, pixels, grid_thw, self.visual, size), self._last_attention as last:
            encoded: Tensor = self.visual(pixels, grid_thw=[grid_thw])
            importance, keys = last.importance(frames), last.keys(frames)
        features = encoded.view(frames, rows * columns, -1)
        width = self.config.get_text_config().hidden_size
        video = VideoTokens(
            features=features[..., :width],
            importance=self._pooled(importance[..., None], grid_thw)[..., 0],
            grid=(rows, columns),
            keys=None if keys is None else self._pooled(keys, grid_thw),
            streams=features[..., width:] if features.shape[-1] > width else None,
            timed=True,
        )
        merged = method.merge(video)
        ids, positions = (each.to(features.device) for each in self._unmerged(grid_thw, times))
        embed = self.language_model.embed_input_ids
        sent, place = among_text(merged, rows * columns, ids, self.config.video_token_id, embed, by_grid=True)
        own = positions[:, place].T
        return torch.cat([sent, torch.cat([own // DIGIT, own % DIGIT], dim=1).to(sent.dtype)], dim=1)

    def _pooled(self, patches: Tensor, grid_thw: list[int]) -> Tensor:
        """Pool `patches` `[T, P, d]` in the tower's order to tokens `[T, N, d]` in grid order."""
        blocks = patches.view(len(patches), -1, self._block, patches.shape[-1])
        return blocks.mean(dim=2)

    @property
    def _block(self) -> int:
        """Number of patches that become one token."""
        side: int = self.config.vision_config.spatial_merge_size
        return side * side

    def _unmerged_ids(self, grid_thw: Sequence[int], times: Any) -> list[int]:
        """Ids of one unmerged video: its placeholders, and the text between its frames."""
        return [self.config.video_token_id] * (prod(grid_thw) // self._block)

    def _unmerged(self, grid_thw: list[int], times: Any) -> tuple[Tensor, Tensor]:
        """Ids `[n]` and positions `[3, n]` of an unmerged prompt that is only one video."""
        ids = self._unmerged_ids(grid_thw, times)
        fields = {"video_grid_thw": SimpleNamespace(data=torch.tensor(grid_thw))}
        if self.timing is not None and times is not None:
            fields[self.timing] = SimpleNamespace(data=times)
        place = PlaceholderRange(offset=0, length=len(ids))
        alone = SimpleNamespace(modality="video", data=fields, mm_position=place)
        positions = super().get_mrope_input_positions(ids, [alone])[0]  # type: ignore[misc]
        return torch.tensor(ids), positions

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Any) -> tuple[Tensor, int]:
        """Positions `[3, L]`, and how far later ones are ahead of their columns.

        All tokens of a merged video have the position of its first token until it is encoded.
        """
        if self._method is None:
            stock: tuple[Tensor, int] = super().get_mrope_input_positions(  # type: ignore[misc]
                input_tokens, mm_features
            )
            return stock
        ids: list[int] = []  # of the unmerged prompt
        column: list[int] = []  # of it, for each token of this one
        moved, at = [], 0
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            offset, length = feature.mm_position.offset, feature.mm_position.length
            column += range(len(ids), len(ids) + offset - at)
            ids += input_tokens[at:offset]
            at = offset + length
            start, own = len(ids), input_tokens[offset:at]
            if feature.modality == "video":
                times = feature.data.get(self.timing) if self.timing else None
                grid = feature.data["video_grid_thw"].data.tolist()
                own = self._unmerged_ids(grid, None if times is None else times.data)
                column += [start] * length
            else:
                column += range(start, start + length)
            ids += own
            place = replace(feature.mm_position, offset=start, length=len(own))
            moved.append(replace(feature, mm_position=place))
        column += range(len(ids), len(ids) + len(input_tokens) - at)
        ids += input_tokens[at:]
        positions, ahead = super().get_mrope_input_positions(ids, moved)  # type: ignore[misc]
        return positions[:, column], ahead + len(ids) - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Split positions off the embeddings, and write them into the positions `[3, L]`.

        `multimodal_embeddings` are those of the placeholders from `num_computed_tokens` on. In a chunked
        prefill, the first and the last item may be a part of a video.
        """
        if self._method is None:
            stock: tuple[Sequence[Tensor], Tensor, int] = super().recompute_mrope_positions(  # type: ignore[misc]
                input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens
            )
            return stock
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
        embedded: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return embedded

    def forward(self, input_ids: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._ahead is not None:
            (at, own), self._ahead = self._ahead, None
            positions[:, at] += own  # the runner fills its buffer anew at every step
        return super().forward(input_ids, positions, *args, **kwargs)  # type: ignore[misc]

    def _parted(self, embedding: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features `[n, E]`, and positions `[3, n]` relative to the video's first token, or None without
        any."""
        width = self.visual.out_hidden_size
        if embedding.shape[1] == width:
            return embedding, None
        high, low = embedding[:, width:].long().chunk(2, dim=1)
        return embedding[:, :width], (high * DIGIT + low).T


def _refuse(vllm_config: Any) -> None:
    if vllm_config.model_config.multimodal_config.mm_encoder_tp_mode == "data":
        raise UnsupportedUsageError(
            "holitom reads the vision tower's last layer, which --mm-encoder-tp-mode data scatters; "
            "use --mm-encoder-tp-mode weights"
        )
    if vllm_config.speculative_config is not None or vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise UnsupportedUsageError(
            "models with positions on three axes are merged without speculative decoding and without "
            "pipeline parallel only: the positions of merged tokens reach neither drafters nor later stages"
        )
