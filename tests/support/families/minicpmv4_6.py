"""MiniCPM-V 4.6: the usual video's frames are cut into two slices, the other kind's are not."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
)

from support.families import Family
from support.families.letters import letter_tokenizer, vocabulary
from support.families.qwen3_5 import LANGUAGE as QWEN

SPECIAL = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
LANGUAGE = {**QWEN, "vocab_size": vocabulary(SPECIAL), "max_position_embeddings": 8192}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 4,
}
PARTS: dict[str, Any] = {
    "text_config": {**LANGUAGE, "model_type": "qwen3_5_text"},
    "vision_config": TOWER,
    "insert_layer_id": 0,
    "image_token_id": 2,
    "video_token_id": 3,
}
CROPS: dict[str, Any] = {"scale_resolution": 48, "patch_size": 4}
TOKENS = {"<image>": "<|image_pad|>", "<video>": "<|video_pad|>"}


def build(attention: str, dtype: torch.dtype) -> Any:
    config = MiniCPMV4_6Config(**PARTS)
    return MiniCPMV4_6ForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor(**settings: Any) -> Any:
    return MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessor(**CROPS),
        video_processor=MiniCPMV4_6VideoProcessor(**CROPS, **settings),
        tokenizer=letter_tokenizer(SPECIAL),
    )


FAMILY = Family(build, processor, TOKENS, rounding=3e-3, since="5.21")
