"""Cosmos3: Qwen3-VL under a class of its own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cosmos3OmniConfig, Cosmos3OmniForConditionalGeneration

from support.families import Family
from support.families.qwen import IDS, TOKENS
from support.families.qwen3_vl import LANGUAGE, TOWER, processor


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Cosmos3OmniConfig(
        text_config={"model_type": "qwen3_vl_text", **LANGUAGE},
        vision_config={"model_type": "qwen3_vl_vision", **TOWER},
        **IDS,
    )
    return Cosmos3OmniForConditionalGeneration._from_config(config, attn_implementation=attention)


FAMILY = Family(build, processor, TOKENS)
