"""Qwen3-VL: time stamps, DeepStack behind the first three of five layers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from support.families import Family
from support.families.qwen import IDS, PATCH, PATCHES, TEXT_MODEL, TOKENS, tokenizer

LANGUAGE = {
    **TEXT_MODEL,
    "num_hidden_layers": 5,
    "head_dim": 16,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
TOWER = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 64,
    "patch_size": PATCH,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 1, 2],
}


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Qwen3VLConfig(text_config=LANGUAGE, vision_config=TOWER, **IDS)
    return Qwen3VLForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**PATCHES),
        video_processor=Qwen3VLVideoProcessor(**PATCHES, cap_pixels_per_frame=False),
        tokenizer=tokenizer(),
    )


FAMILY = Family(build, processor, TOKENS)
