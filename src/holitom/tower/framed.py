"""Reuse in towers that take frames as a batch `[F, P, D]`: SigLIP, CLIP, InternViT and SmolVLM's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holitom.tower.base import Ints, Mask, Tower
from holitom.tower.packing import Packing
from holitom.tower.plan import Plan


@dataclass(frozen=True)
class Frames:
    """Videos among the frames of a batch.

    Attributes:
        pixels: for each video, `[T, S, C, 1, h, w]`; a place is a patch.
        at: for each video, indices of its frames in the batch.
        count: number of frames of the batch.
        leading: number of tokens of a frame before its patches.
    """

    pixels: list[Tensor]
    at: list[Ints]
    count: int
    leading: int

    @property
    def others(self) -> int:
        return self.count - sum(map(len, self.at))

    @property
    def bounds(self) -> Ints:
        each = self.leading + (self.pixels[0].shape[1] if self.pixels else 0)
        return np.arange(self.count + 1) * each

    def tokens(self, plans: list[Plan]) -> tuple[Mask, Ints]:
        own = np.arange(self.count)
        places = plans[0].computed.shape[1]
        computed = np.ones((self.count, places), dtype=np.bool_)
        reference = own.copy()
        for plan, at in zip(plans, self.at, strict=True):
            computed[at], reference[at] = plan.computed, at[plan.reference]
        # A class token is computed in every frame that has a computed patch.
        leading = computed.any(1, keepdims=True).repeat(self.leading, 1)
        computed = np.concatenate([leading, computed], 1)
        frame = np.where(computed, own[:, None], reference[:, None])
        return computed.ravel(), (frame * computed.shape[1] + np.arange(computed.shape[1])).ravel()


@dataclass(frozen=True)
class Batch:
    """The frames of a call.

    Attributes:
        pixels: `[F, C, H, W]`: videos' frames, and other images.
        at: for each video, indices of its frames in `pixels`.
    """

    pixels: Tensor
    at: list[Ints]


class FramedTower(Tower):
    """A tower that takes frames as a batch; between its layers the computed tokens are `[1, n, D]`."""

    def lay_out(self, arguments: dict[str, Any], frames: list[list[int]] | None) -> Frames | None:
        found = self.batch(arguments, frames)
        if found is None:
            return None
        size = self.module.config.patch_size
        places = [patches_of(found.pixels[torch.from_numpy(video)], size) for video in found.at]
        return Frames(places, found.at, len(found.pixels), self.kind.leading)

    def batch(self, arguments: dict[str, Any], frames: list[list[int]] | None) -> Batch | None:
        """The frames of a call; arguments and None as in `lay_out`."""
        pixels: Tensor = arguments[self.adapter.pixels_name]
        mask = arguments.get("pixel_attention_mask")
        if self.adapter.modality == "video":
            videos, length = pixels.shape[:2]
            pixels = pixels.flatten(0, 1)
            at = list(np.arange(videos * length).reshape(videos, length))
        elif frames is None:
            return None
        else:
            if pixels.dim() == 5:  # rows filled up with images that are all zero, which the model drops
                pixels = pixels.flatten(0, 1)
                real = pixels.flatten(1).any(1)
                pixels = pixels[real]
                mask = None if mask is None else mask.flatten(0, 1)[real]
            at = [np.asarray(video, dtype=np.int64) for video in frames]
        if mask is not None and not bool(mask.all()):
            return None  # attention that is masked differs between frames
        return Batch(pixels, at)

    def stretches(self, arguments: dict[str, Any], grid: Tensor) -> Iterable[Ints]:
        frames, tokens = grid.shape[:2]
        return [np.arange(frames * tokens).reshape(frames, tokens)]

    def reads(self, arguments: dict[str, Any]) -> frozenset[int]:
        selected: Any = arguments.get("vision_feature_layer")
        if selected is None:
            config: Any = self.adapter.trunk.config
            selected = getattr(config, "vision_feature_layer", -1)
        count = len(self.layers) + 1  # hidden states: the first is what enters the first layer
        states: list[int] = [selected] if isinstance(selected, int) else list(selected)
        return super().reads(arguments) | {state % count - 1 for state in states}

    def pack(self, hidden: Tensor, packing: Packing) -> Tensor:
        return packing.pack(hidden.flatten(0, 1))[None]

    def fill(self, rows: Tensor, packing: Packing, grid: Tensor) -> Tensor:
        return self.laid(packing.fill(rows[0]).view(*grid.shape[:2], -1), grid)

    def laid(self, filled: Tensor, grid: Tensor) -> Tensor:
        """Hidden states `[F, P, D]` with the strides of `grid`."""
        if grid.is_contiguous():
            return filled
        # Rounding in the modules after the tower depends on strides: SigLIP's are its patch embedding's.
        return torch.empty_strided(
            filled.shape, grid.stride(), dtype=filled.dtype, device=filled.device
        ).copy_(filled)


def patches_of(frames: Tensor, size: int | Sequence[int]) -> Tensor:
    """Divide frames `[T, C, H, W]` into patches `[T, S, C, 1, h, w]` of `size`: one number, or height and
    width."""
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = frames.shape[2] // height, frames.shape[3] // width
    whole = frames[:, :, : rows * height, : columns * width]
    parted = whole.reshape(*whole.shape[:2], rows, height, columns, width)
    return parted.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).unsqueeze(3)
