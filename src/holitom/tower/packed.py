"""Reuse in towers that take all patches in one sequence `[P, D]`: Qwen2-VL's to Qwen3.5's, GLM's,
VideoLLaMA3's.

A place is a block of 2 x 2 patches, which becomes one visual token; a frame is a temporal patch row (mostly
two frames of the video). Blocks are ordered by frame; those of Qwen2.5-VL, within a frame, by window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from holitom.models.packed import stretches
from holitom.ops.host import to_host
from holitom.tower.base import Ints, Mask, Tower
from holitom.tower.packing import Packing
from holitom.tower.plan import Plan


@dataclass(frozen=True)
class Blocks:
    """Videos one after another in a sequence of patches.

    Attributes:
        pixels: for each video, `[T, S, patches, C, D, h, w]`.
        order: `[P]` int64: for each index of the tower's sequence, the patch there, counted in grid order.
    """

    pixels: list[Tensor]
    order: Ints

    @property
    def others(self) -> int:
        return 0

    @property
    def bounds(self) -> Ints:
        each = np.array([pixels.shape[1] * pixels.shape[2] for pixels in self.pixels])
        return np.concatenate([[0], each.repeat([len(pixels) for pixels in self.pixels]).cumsum()])

    def tokens(self, plans: list[Plan]) -> tuple[Mask, Ints]:
        computed, source = [], []
        first = 0
        for plan, pixels in zip(plans, self.pixels, strict=True):
            frames, places, patches = pixels.shape[:3]
            frame = np.where(plan.computed, np.arange(frames)[:, None], plan.reference[:, None])
            block = frame * places + np.arange(places)
            computed.append(plan.computed.ravel().repeat(patches))
            source.append(first + (block.ravel()[:, None] * patches + np.arange(patches)).ravel())
            first += frames * places * patches
        where = np.empty_like(self.order)
        where[self.order] = np.arange(len(self.order))
        return np.concatenate(computed)[self.order], where[np.concatenate(source)[self.order]]


class PackedTower(Tower):
    """A tower that takes all patches in one sequence; between its layers the computed tokens are `[n, D]`."""

    def lay_out(self, arguments: dict[str, Any], frames: list[list[int]] | None) -> Blocks:
        pixels: Tensor = arguments["pixel_values_videos"]
        grids: Tensor = arguments["video_grid_thw"]
        config = self.module.config
        merges = arguments.get("video_merge_sizes")
        sides = [config.spatial_merge_size] * len(grids) if merges is None else merges.tolist()
        size, channels = config.patch_size, getattr(config, "in_channels", getattr(config, "num_channels", 3))
        videos = []
        for own, (frames_, height, width), side in zip(
            torch.split(pixels, grids.prod(-1).tolist()), grids.tolist(), sides, strict=True
        ):
            shape = (frames_, height * width // side**2, side**2, channels, -1, size, size)
            videos.append(own.reshape(shape))
        return Blocks(videos, self._order(grids, len(pixels)))

    def _order(self, grids: Tensor, patches: int) -> Ints:
        if not self.kind.windows:
            return np.arange(patches)
        tower = self.module
        order, _ = get_vision_window_index(
            grids, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        unit = tower.spatial_merge_unit
        patches_: Ints = to_host(order)[:, None] * unit + np.arange(unit)
        return patches_.ravel()

    def stretches(self, arguments: dict[str, Any], grid: Tensor) -> Iterable[Ints]:
        found = stretches(arguments["cu_seqlens"], arguments["cu_seqlens"].device)
        return [to_host(each) for each in found]

    def reads(self, arguments: dict[str, Any]) -> frozenset[int]:
        deep = getattr(self.module, "deepstack_visual_indexes", None) or ()
        return super().reads(arguments) | set(deep)

    def pack(self, hidden: Tensor, packing: Packing) -> Tensor:
        return packing.pack(hidden)

    def fill(self, rows: Tensor, packing: Packing, grid: Tensor) -> Tensor:
        return packing.fill(rows)
