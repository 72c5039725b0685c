"""VideoLLaMA3 (2B, 7B): a packed SigLIP tower, 2x2 pooling behind it, "Time 1.0s:" before each frame, Qwen2.

Its processor drops tokens whose pixels repeat the frame before (`use_token_compression`), and the prompt has
no placeholder for them. They are merged like any other, but what stands where one was dropped is not sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import VideoLlama3VideoProcessor
from transformers.models.video_llama_3.modeling_video_llama_3 import apply_rotary_pos_emb_vision

from holitom.errors import UnsupportedUsageError
from holitom.models.base import SentTokens
from holitom.models.multi_axis import following, packed_importance
from holitom.models.one_axis import OneAxis
from holitom.ops.host import host_values, sent
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class CompressedVideo(VideoTokens):
    """A video of which some tokens have no placeholder.

    Attributes:
        held: how many have one.
        slot: `[T * N]` int64: the placeholder of each, -1 where it has none.
    """

    held: int = 0
    slot: Tensor | None = None


class VideoLlama3(OneAxis):
    """Adapter for `transformers.VideoLlama3ForConditionalGeneration`."""

    family: ClassVar[str] = "VideoLLaMA3"
    towers: ClassVar[tuple[str, ...]] = ("video_llama_3_vision",)
    decoders: ClassVar[tuple[str, ...]] = ("qwen2",)

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._check_parts(config)
        trunk: Any = model.model
        self.trunk = trunk
        self.language_model = trunk.language_model
        self.layers = trunk.language_model.layers
        self.vision_attention = self._readable(trunk.vision_model.encoder.layers[-1].self_attn)
        self._video_token = int(config.video_token_id)
        self._patch = config.vision_config.patch_size

    def placeholders(self, input_ids: Tensor) -> Tensor:
        return input_ids == self._video_token

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        grid_thw, merge = arguments.get("video_grid_thw"), arguments.get("video_merge_sizes")
        if grid_thw is None or merge is None:
            return
        came, mask = len(arguments["pixel_values_videos"]), arguments.get("video_compression_mask")
        ids, grid_thw, merge, *masks = host_values(
            input_ids, grid_thw, merge, *([] if mask is None else [mask])
        )
        patches = grid_thw.prod(-1)
        slots = (patches // merge**2).tolist()
        told = sum(slots) if mask is None else len(mask)
        if came != int(patches.sum()) or told != sum(slots):
            raise UnsupportedUsageError(
                f"video_grid_thw says {int(patches.sum())} patches that make {sum(slots)} tokens, "
                f"pixel_values_videos holds {came} patches, and video_compression_mask tells of {told} "
                "tokens; pass them as one call of the processor returns them"
            )
        for mask in masks:
            slots = [int(own.sum()) for own in torch.split(mask, slots)]
        self.check_placeholders(ids, slots)

    def attention_lengths(self, arguments: dict[str, Any]) -> list[int]:
        (grid_thw,) = host_values(arguments["video_grid_thw"])
        return [height * width for frames, height, width in grid_thw.tolist() for _ in range(frames)]

    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        hidden: Tensor = arguments["hidden_states"]
        cos, sin = arguments["position_embeddings"]

        def read(rows: Tensor) -> tuple[Tensor, Tensor]:
            query, key = (self._heads(name, hidden[rows][None])[0] for name in ("q", "k"))
            rotated: tuple[Tensor, Tensor] = apply_rotary_pos_emb_vision(query, key, cos[rows], sin[rows])
            return rotated

        return packed_importance(hidden, arguments["cu_seqlens"], self.vision_attention, read, lengths)

    def keys(self, arguments: dict[str, Any]) -> Tensor:
        return self._heads("k", arguments["hidden_states"][None])[0].mean(dim=1)

    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        grid_thw, merge = host_values(arguments["video_grid_thw"], arguments["video_merge_sizes"])
        grids = [(t, h // m, w // m) for (t, h, w), m in zip(grid_thw.tolist(), merge.tolist(), strict=True)]
        came, sizes = [len(features) for features in encoded.pooler_output], [prod(grid) for grid in grids]
        if came != sizes:
            raise UnsupportedUsageError(
                f"the videos came out as {came} tokens, and video_grid_thw says {sizes}; pass what one call "
                "of the processor returned"
            )
        tower: Any = self.trunk.vision_model
        pooled = [
            [None] * len(grids)
            if patches is None
            # The model's own pooling, so importance and keys are pooled exactly as the features are.
            else torch.split(tower.pixel_unshuffle(patches.view(len(patches), -1), grid_thw, merge), sizes)
            for patches in (importance, keys)
        ]
        found = []
        for index, (frames, rows, columns) in enumerate(grids):
            shape = (frames, rows * columns)
            features: Tensor = encoded.pooler_output[index].view(*shape, -1)
            score, key = pooled[0][index], pooled[1][index]
            found.append(
                VideoTokens(
                    features=features,
                    importance=self.no_importance(features) if score is None else score.view(shape),
                    grid=(rows, columns),
                    keys=None if key is None else key.view(*shape, -1),
                )
            )
        return found

    def locate(self, encodings: list[VideoTokens], given: dict[str, Any]) -> list[VideoTokens]:
        mask = given.get("video_compression_mask")
        if mask is None:
            return encodings
        (mask,) = host_values(mask)
        if bool(mask.all()):
            return encodings
        sizes = [prod(video.features.shape[:2]) for video in encodings]
        if len(mask) != sum(sizes):
            raise UnsupportedUsageError(
                f"video_compression_mask tells of {len(mask)} tokens, and the videos have {sum(sizes)}; pass "
                "what one call of the processor returned"
            )
        return [
            CompressedVideo(
                features=video.features,
                importance=video.importance,
                grid=video.grid,
                keys=video.keys,
                held=int(own.sum()),
                slot=sent(torch.where(own, own.cumsum(0) - 1, -1), video.features.device),
            )
            for video, own in zip(encodings, torch.split(mask, sizes), strict=True)
        ]

    def slots(self, video: VideoTokens) -> int:
        return video.held if isinstance(video, CompressedVideo) else prod(video.features.shape[:2])

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        place = merged.frame * video.features.shape[1] + merged.position
        if not isinstance(video, CompressedVideo):
            return SentTokens(merged.features, place)
        assert video.slot is not None
        slot = video.slot[place]
        stays = (slot >= 0).nonzero().squeeze(1)
        features, slot, place = (each.index_select(0, stays) for each in (merged.features, slot, place))
        return SentTokens(features, slot, place=place)

    def part(self, arguments: dict[str, Any], frames: int) -> tuple[dict[str, Any], int]:
        """A frame."""
        ((_, height, width),) = arguments["video_grid_thw"].tolist()
        pixels: Tensor = arguments["pixel_values_videos"]
        one = torch.tensor([[1, height, width]])
        return {**arguments, "pixel_values_videos": pixels[: height * width], "video_grid_thw": one}, frames

    def encode(self, arguments: dict[str, Any]) -> Any:
        tower: Any = self.trunk.vision_model
        with following(tower.children()):
            return super().encode(arguments)

    def encoding(self, frames: int, width: int, height: int) -> dict[str, Any]:
        video = torch.empty(frames, 3, height, width, dtype=torch.uint8, device="meta")
        processor: Any = VideoLlama3VideoProcessor(patch_size=self._patch)
        inputs = processor(
            videos=[video], do_sample_frames=False, use_token_compression=False, return_tensors="pt"
        )
        return {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")}
