"""Qwen2-VL."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from support.families import Family
from support.families.qwen import IDS, PATCH, PATCHES, TEXT_MODEL, TOKENS, tokenizer


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Qwen2VLConfig(
        text_config={**TEXT_MODEL, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                                       "mrope_section": [2, 3, 3]}},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "patch_size": PATCH,
                       "mlp_ratio": 2},
        **IDS,
    )  # fmt: skip
    return Qwen2VLForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**PATCHES),
        video_processor=Qwen2VLVideoProcessor(**PATCHES, cap_pixels_per_frame=False),
        tokenizer=tokenizer(),
    )


FAMILY = Family(build, processor, TOKENS)
