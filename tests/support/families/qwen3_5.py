"""Qwen3.5: gated delta nets at three of five layers; attention gates its output and rotates half a head."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from support.families import Family
from support.families.qwen import IDS, TEXT_MODEL, TOKENS
from support.families.qwen3_vl import TOWER as DEEP
from support.families.qwen3_vl import processor

LANGUAGE = {
    **TEXT_MODEL,
    "num_hidden_layers": 5,
    "head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    # Inner stages of the matrix come behind attention, behind a state, and behind one another.
    "layer_types": [f"{kind}_attention" for kind in "full linear linear full linear".split()],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
TOWER = {name: value for name, value in DEEP.items() if name != "deepstack_visual_indexes"}


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Qwen3_5Config(text_config=LANGUAGE, vision_config=TOWER, **IDS)
    return Qwen3_5ForConditionalGeneration._from_config(config, attn_implementation=attention)


FAMILY = Family(build, processor, TOKENS, rounding=3e-3)
