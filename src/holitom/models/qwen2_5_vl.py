"""Qwen2.5-VL (3B, 7B, 32B, 72B): as Qwen2-VL, with a tower that keeps its patches in the order of windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2VLVideoProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_window_index

from holitom.models.multi_axis import MultiAxis
from holitom.ops.host import sent


class Qwen25VL(MultiAxis):
    """Adapter for `transformers.Qwen2_5_VLForConditionalGeneration`.

    Most of its tower's layers attend within windows; the last one, as published, within a temporal patch row.
    Importance is read from whichever it is.
    """

    name = "Qwen2.5-VL"
    rotate = staticmethod(apply_rotary_pos_emb)
    rotate_vision = staticmethod(apply_rotary_pos_emb_vision)

    def _pooled(self, patches: Tensor, grid_thw: Tensor) -> Tensor:
        tower = self.tower
        order, _ = get_vision_window_index(
            grid_thw, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        pooled = super()._pooled(patches, grid_thw)
        return torch.empty_like(pooled).index_copy(0, sent(order, pooled.device), pooled)

    def video_processor(self) -> Any:
        return Qwen2VLVideoProcessor()
