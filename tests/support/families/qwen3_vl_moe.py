"""Qwen3-VL with a mixture of experts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from support.families import Family
from support.families.qwen import IDS, TOKENS
from support.families.qwen3_vl import LANGUAGE, TOWER, processor

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Qwen3VLMoeConfig(text_config={**LANGUAGE, **EXPERTS}, vision_config=TOWER, **IDS)
    return Qwen3VLMoeForConditionalGeneration._from_config(config, attn_implementation=attention)


FAMILY = Family(build, processor, TOKENS)
