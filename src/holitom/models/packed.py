"""Packed towers: the patches of all videos are one sequence, divided into stretches by `cu_seqlens`.

Patches attend within their stretch: a temporal patch row (one or two frames), a window in one, or a crop of a
frame. Patches that become one token are neighbours. Tokens of Qwen's and GLM's vision language models keep
their positions in time, height and width; anything between them (time stamps) is text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.models.parts import PackedParts, Parts
from holitom.models.values import Read, of_tokens
from holitom.ops.attention import frames_per_chunk, received_attention
from holitom.ops.host import HOST, host_values, sent
from holitom.tokens import VideoTokens


class PackedTower(Adapter):
    """An adapter with a packed tower, whose videos come with `video_grid_thw`.

    Attributes:
        rotate_vision: the tower's `apply_rotary_pos_emb_vision`; None where it has no rotary positions.
    """

    places: ClassVar[tuple[str, str, str]] = ("visual", "blocks", "attn")
    projections: ClassVar[dict[str, str]] = {"q": "qkv", "k": "qkv"}
    vision_arguments: ClassVar[tuple[str, ...]] = ("hidden_states", "cu_seqlens", "position_embeddings")
    encoder_arguments: ClassVar[tuple[str, ...]] = ("video_grid_thw",)
    keeps_positions: ClassVar[bool] = True
    rotate_vision: ClassVar[Callable[..., tuple[Tensor, Tensor]] | None]

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.frames_per_step = int(getattr(self.config.vision_config, "temporal_patch_size", 1))

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        grid_thw, pixels = arguments.get("video_grid_thw"), arguments.get("pixel_values_videos")
        if grid_thw is None:
            return
        ids, grid_thw = host_values(input_ids, grid_thw)
        patches = int(grid_thw.prod(-1).sum())
        if pixels is not None and len(pixels) != patches:
            raise UnsupportedUsageError(
                f"pixel_values_videos holds {len(pixels)} patches, but video_grid_thw says {patches}; pass "
                "both as one call of the processor returns them"
            )
        self.check_placeholders(ids, self.counts(arguments))

    def grids(self, arguments: dict[str, Any]) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of each video's tokens."""
        merge = self.config.vision_config.spatial_merge_size
        (grid_thw,) = host_values(arguments["video_grid_thw"])
        return [(t, h // merge, w // merge) for t, h, w in grid_thw.tolist()]

    def counts(self, arguments: dict[str, Any]) -> list[int]:
        """Number of placeholders of each video."""
        return list(map(prod, self.grids(arguments)))

    def attention_lengths(self, arguments: dict[str, Any]) -> list[int]:
        (grid_thw,) = host_values(arguments["video_grid_thw"])
        return [height * width for frames, height, width in grid_thw.tolist() for _ in range(frames)]

    def in_parts(self, arguments: dict[str, Any]) -> Parts | None:
        return PackedParts(arguments, list(map(prod, self.grids(arguments))))

    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        hidden: Tensor = arguments["hidden_states"].flatten(0, -2)
        bounds: Tensor = arguments["cu_seqlens"]
        attention, rotate = self.vision_attention, type(self).rotate_vision
        received = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        # If there are as many lengths as stretches, bounds follow from them, in proportion to the patches
        # left in this layer. Otherwise stretches are windows, and their bounds are read from the device.
        if lengths and len(lengths) == len(bounds) - 1:
            share = Fraction(len(hidden), sum(lengths))
            bounds = torch.tensor([0, *accumulate(int(length * share) for length in lengths)], device=HOST)
        for patches in stretches(bounds, hidden.device):
            for at in torch.split(patches, frames_per_chunk(attention.num_heads, patches.shape[1])):
                rows = at.flatten()
                heads = self.heads(hidden[rows], "q", "k")
                if rotate is not None:
                    heads = list(rotate(*heads, *(each[rows] for each in arguments["position_embeddings"])))
                # F stretches of P patches
                query, key = (each.view(*at.shape, *each.shape[1:]).transpose(1, 2) for each in heads)
                received[at] = received_attention(query, key, attention.scaling)
        return received

    def keys(self, arguments: dict[str, Any]) -> Tensor:
        (key,) = self.heads(arguments["hidden_states"].flatten(0, -2), "k")
        return key.mean(1)

    def heads(self, hidden: Tensor, *which: str) -> list[Tensor]:
        """Project queries and keys, also by attentions with one projection for queries, keys and values."""
        if self.projections["q"] != self.projections["k"]:
            return super().heads(hidden, *which)
        fused = getattr(self.vision_attention, self.projections["q"])(hidden)
        query, key, _ = fused.unflatten(-1, (3, self.vision_attention.num_heads, -1)).unbind(-3)
        return [{"q": query, "k": key}[name] for name in which]

    def videos(self, encoded: Any, arguments: dict[str, Any], read: Read) -> list[Any]:
        grids = self.grids(arguments)
        sizes = [prod(grid) for grid in grids]
        came = [len(features) for features in encoded.pooler_output]
        if came != sizes:
            raise UnsupportedUsageError(
                f"the videos came out as {came} tokens, but video_grid_thw says {sizes}; pass what one call "
                "of the processor returned"
            )
        shapes = [(frames, rows * columns) for frames, rows, columns in grids]
        features = [own.view(*shape, -1) for own, shape in zip(encoded.pooler_output, shapes, strict=True)]

        def pool(patches: Tensor) -> list[Tensor]:
            each = torch.split(self.pooled(patches, arguments), sizes)
            return [own.view(*shape, *patches.shape[1:]) for own, shape in zip(each, shapes, strict=True)]

        return [
            VideoTokens(
                features=features[index],
                grid=grids[index][1:],
                streams=self.streams_of(encoded, index, shapes[index]),
                timed=self.keeps_positions,
                **own,
            )
            for index, own in enumerate(of_tokens(read, features, pool))
        ]

    def pooled(self, patches: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Average each block of `patches` `[P, ...]` that becomes one token: `[tokens, ...]`, by the grid."""
        block = self.config.vision_config.spatial_merge_size**2
        return patches.reshape(-1, block, *patches.shape[1:]).mean(1)

    def streams_of(self, encoded: Any, index: int, shape: tuple[int, int]) -> Tensor | None:
        """`VideoTokens.streams` `[T, N, E]` of video `index`; here none."""
        return None


def stretches(cu_seqlens: Tensor, device: torch.device) -> list[Tensor]:
    """Group the stretches of patches that attend to each other by length.

    `cu_seqlens = [0, 2, 5, 7]` has two stretches of 2 patches and one of 3: `[[0, 1], [5, 6]]`, `[[2, 3,
    4]]`.

    Args:
        cu_seqlens: `[S + 1]`: bounds of the stretches.
        device: device of the result.

    Returns:
        For each length `P` the indices `[F, P]` int64 of the patches in the `F` stretches of that length. The
        number of tensors is that of lengths, so it does not grow with the video.
    """
    (bounds,) = host_values(cu_seqlens)
    starts, lengths = bounds[:-1], bounds.diff()
    return [
        sent(starts[lengths == length][:, None] + torch.arange(length, device=HOST), device)
        for length in sorted(set(lengths.tolist()) - {0})
    ]
