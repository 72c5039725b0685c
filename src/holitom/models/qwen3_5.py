"""Qwen3.5 and its mixtures of experts: time stamps between frames, gated delta nets between attention layers.

Three layers of four carry a state in place of keys and values. They run on the tokens left, as other layers
do.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb, apply_rotary_pos_emb_vision

from holitom.models.qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """Adapter for `transformers.Qwen3_5ForConditionalGeneration` and `Qwen3_5MoeForConditionalGeneration`."""

    family: ClassVar[str] = "Qwen3.5"
    layer_types: ClassVar[frozenset[str]] = frozenset({"full_attention", "linear_attention"})
    rotate = staticmethod(apply_rotary_pos_emb)
    rotate_vision = staticmethod(apply_rotary_pos_emb_vision)

    def decoder_heads(self, attention: Any, which: str, hidden: Tensor) -> Tensor:
        return gated_heads(attention, which, hidden)


def gated_heads(attention: Any, which: str, hidden: Tensor) -> Tensor:
    """`Adapter.decoder_heads` of an attention whose query projection also makes a gate for each head."""
    heads: Tensor = getattr(attention, f"{which}_proj")(hidden).unflatten(-1, (-1, attention.head_dim))
    if which == "q":
        heads = heads[..., ::2, :]  # queries and gates alternate
    normed: Tensor = getattr(attention, f"{which}_norm")(heads)
    return normed
