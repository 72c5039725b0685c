"""HyperCLOVA X: Qwen2.5-VL's tower and processors; a Granite with scaled attention, residuals and logits."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    HyperCLOVAXVisionV2Config,
    HyperCLOVAXVisionV2ForConditionalGeneration,
    HyperCLOVAXVisionV2Processor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from support.families import Family
from support.families.qwen import PATCHES, TEXT_MODEL, TOKENS, tokenizer
from support.families.qwen2_5_vl import TOWER

SCALES = {
    "embedding_multiplier": 1.2,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.8,
    "logits_scaling": 0.5,
}


def build(attention: str, dtype: torch.dtype) -> Any:
    config = HyperCLOVAXVisionV2Config(
        text_config={"model_type": "hyperclovax", **TEXT_MODEL, **SCALES},
        vision_config={"model_type": "qwen2_5_vl_vision", **TOWER},
        image_token_id=5,
        video_token_id=6,
        tie_word_embeddings=False,
    )
    return HyperCLOVAXVisionV2ForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return HyperCLOVAXVisionV2Processor(
        image_processor=Qwen2VLImageProcessor(**PATCHES),
        video_processor=Qwen2VLVideoProcessor(**PATCHES, cap_pixels_per_frame=False),
        tokenizer=tokenizer(),
    )


FAMILY = Family(build, processor, TOKENS)
