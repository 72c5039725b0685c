"""Qwen3.5 with a mixture of experts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from support.families import Family
from support.families.qwen import IDS, TOKENS
from support.families.qwen3_5 import LANGUAGE, TOWER, processor

EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def build(attention: str, dtype: torch.dtype) -> Any:
    language = {name: value for name, value in LANGUAGE.items() if name != "intermediate_size"}
    config = Qwen3_5MoeConfig(text_config={**language, **EXPERTS}, vision_config=TOWER, **IDS)
    return Qwen3_5MoeForConditionalGeneration._from_config(config, attn_implementation=attention)


FAMILY = Family(build, processor, TOKENS, rounding=3e-3)
