"""VideoLLaMA3 (2B, 7B): a packed SigLIP tower, 2x2 pooling behind it, "Time 1.0s:" before each frame, Qwen2.

Its processor drops tokens whose pixels repeat the frame before (`use_token_compression`), and the prompt has
no placeholder for them. They are merged like all tokens, but a merged token at such a place is not sent
(if all are at such places, the first one is).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.video_llama_3.modeling_video_llama_3 import apply_rotary_pos_emb_vision

from holitom.errors import UnsupportedUsageError
from holitom.models.packed import PackedTower
from holitom.models.values import SentTokens
from holitom.ops.host import host_values, sent
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class CompressedVideo(VideoTokens):
    """A video of which some tokens have no placeholder.

    Attributes:
        held: number of tokens with a placeholder.
        slot: `[T * N]` int64: the placeholder of each token, -1 where it has none.
    """

    held: int = 0
    slot: Tensor | None = None


class VideoLlama3(PackedTower):
    """Adapter for `transformers.VideoLlama3ForConditionalGeneration`."""

    family: ClassVar[str] = "VideoLLaMA3"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision_config": ("video_llama_3_vision",),
        "text_config": ("qwen2",),
    }
    places: ClassVar[tuple[str, str, str]] = ("vision_model", "encoder.layers", "self_attn")
    projections: ClassVar[dict[str, str]] = {"q": "q_proj", "k": "k_proj"}
    encoder_arguments: ClassVar[tuple[str, ...]] = ("video_grid_thw", "video_merge_sizes")
    keeps_positions: ClassVar[bool] = False
    rotate_vision = staticmethod(apply_rotary_pos_emb_vision)

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        names = ("video_grid_thw", "video_merge_sizes", "video_compression_mask")
        if arguments.get("video_merge_sizes") is not None:
            # One device synchronisation fetches all, and the values are remembered for the calls below.
            host_values(input_ids, *(arguments[n] for n in names if arguments.get(n) is not None))
            super().check_prompt(input_ids, arguments)

    def grids(self, arguments: dict[str, Any]) -> list[tuple[int, int, int]]:
        grid_thw, merge = host_values(arguments["video_grid_thw"], arguments["video_merge_sizes"])
        return [(t, h // m, w // m) for (t, h, w), m in zip(grid_thw.tolist(), merge.tolist(), strict=True)]

    def counts(self, arguments: dict[str, Any]) -> list[int]:
        sizes, mask = super().counts(arguments), arguments.get("video_compression_mask")
        return sizes if mask is None else [int(own.sum()) for own in self._parted(mask, sizes)]

    @staticmethod
    def _parted(mask: Any, sizes: list[int]) -> list[Tensor]:
        """Split the processor's `mask` of tokens that have a placeholder by video."""
        if len(mask) != sum(sizes):
            raise UnsupportedUsageError(
                f"video_compression_mask has {len(mask)} entries, but the videos have {sum(sizes)} tokens; "
                "pass what one call of the processor returned"
            )
        (held,) = host_values(mask)
        return list(torch.split(held, sizes))

    def pooled(self, patches: Tensor, arguments: dict[str, Any]) -> Tensor:
        # The model's own pooling, so that importance and keys are pooled exactly as features.
        sizes = host_values(arguments["video_grid_thw"], arguments["video_merge_sizes"])
        pooled: Tensor = self.tower.pixel_unshuffle(patches.view(len(patches), -1), *sizes)
        return pooled

    def located_by(self, given: dict[str, Any]) -> list[Tensor]:
        mask = given.get("video_compression_mask")
        return [] if mask is None else host_values(mask)

    def locate(self, encodings: list[Any], read: list[Tensor]) -> list[VideoTokens]:
        if all(bool(mask.all()) for mask in read):
            return encodings
        (mask,) = read
        sizes = [prod(video.features.shape[:2]) for video in encodings]
        return [
            CompressedVideo(
                **vars(video),
                held=int(own.sum()),
                slot=sent(torch.where(own, own.cumsum(0) - 1, -1), video.features.device),
            )
            for video, own in zip(encodings, self._parted(mask, sizes), strict=True)
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
        if not len(stays):  # an answer about no token is none: the first one stands at the first placeholder
            return SentTokens(merged.features[:1], torch.zeros_like(place[:1]), place=place[:1])
        features, slot, place = (each.index_select(0, stays) for each in (merged.features, slot, place))
        return SentTokens(features, slot, place=place)
