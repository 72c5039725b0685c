"""Qwen2.5-VL (3B, 7B, 32B, 72B): Qwen2-VL with a tower whose patches are in the order of windows."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_window_index

from holitom.models.packed import PackedTower
from holitom.ops.host import host_values, sent


class Qwen25VL(PackedTower):
    """Adapter for `transformers.Qwen2_5_VLForConditionalGeneration`.

    Most of its tower's layers attend within windows; the last layer of published checkpoints attends within a
    temporal patch row. Importance is read in the last layer in either case.
    """

    family: ClassVar[str] = "Qwen2.5-VL"
    rotate = staticmethod(apply_rotary_pos_emb)
    rotate_vision = staticmethod(apply_rotary_pos_emb_vision)

    def pooled(self, patches: Tensor, arguments: dict[str, Any]) -> Tensor:
        tower = self.tower
        (grid_thw,) = host_values(arguments["video_grid_thw"])
        order, _ = get_vision_window_index(
            grid_thw, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        pooled = super().pooled(patches, arguments)
        return torch.empty_like(pooled).index_copy(0, sent(order, pooled.device), pooled)
