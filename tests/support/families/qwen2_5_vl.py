"""Qwen2.5-VL: windows of 2 x 2 tokens, so that every frame is cut into unequal ones."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from support.families import Family
from support.families.qwen import IDS, PATCH, PATCHES, TEXT_MODEL, TOKENS, tokenizer

LANGUAGE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
TOWER: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 64,
    "patch_size": PATCH,
    "window_size": 4 * PATCH,
    "fullatt_block_indexes": [1],
    "tokens_per_second": 2,
}


def build(attention: str, dtype: torch.dtype, full: tuple[int, ...] = (1,)) -> Any:
    """`full`: the tower's layers that attend within a whole temporal patch row."""
    config = Qwen2_5_VLConfig(
        text_config={**TEXT_MODEL, **LANGUAGE},
        vision_config={**TOWER, "fullatt_block_indexes": list(full)},
        **IDS,
    )
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**PATCHES),
        video_processor=Qwen2VLVideoProcessor(**PATCHES, cap_pixels_per_frame=False),
        tokenizer=tokenizer(),
    )


FAMILY = Family(build, processor, TOKENS)
