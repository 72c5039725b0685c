"""HyperCLOVA X SEED Think (32B): Qwen2.5-VL's tower before a language model with one position axis."""

from __future__ import annotations

from typing import ClassVar

from transformers.models.hyperclovax.modeling_hyperclovax import apply_rotary_pos_emb

from holitom.models.qwen2_5_vl import Qwen25VL


class HyperClovaX(Qwen25VL):
    """Adapter for `transformers.HyperCLOVAXVisionV2ForConditionalGeneration`."""

    family: ClassVar[str] = "HyperCLOVA X"
    rotate = staticmethod(apply_rotary_pos_emb)
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "text_config": ("hyperclovax",),
        "vision_config": ("qwen2_5_vl_vision",),
    }
    places: ClassVar[tuple[str, str, str]] = ("vision_model", "blocks", "attn")
    keeps_positions: ClassVar[bool] = False
