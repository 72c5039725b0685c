"""Qwen2-VL (2B, 7B, 72B): a tower that attends within a temporal patch row; three position axes; Qwen2."""

from __future__ import annotations

from typing import ClassVar

from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb, apply_rotary_pos_emb_vision

from holitom.models.packed import PackedTower


class Qwen2VL(PackedTower):
    """Adapter for `transformers.Qwen2VLForConditionalGeneration`."""

    family: ClassVar[str] = "Qwen2-VL"
    rotate = staticmethod(apply_rotary_pos_emb)
    rotate_vision = staticmethod(apply_rotary_pos_emb_vision)
