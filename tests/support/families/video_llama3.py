"""VideoLLaMA3: a packed tower with rotary positions, "Time 1.0s:" before each frame."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2Config,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
    VideoLlama3VisionConfig,
)

from support.families import Family
from support.families.letters import letter_tokenizer, vocabulary

PATCH = 8
SPECIAL = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}


def build(attention: str, dtype: torch.dtype) -> Any:
    vision = VideoLlama3VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, patch_size=PATCH
    )
    text = Qwen2Config(
        vocab_size=vocabulary(SPECIAL),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        eos_token_id=1,
        pad_token_id=0,
    )
    config = VideoLlama3Config(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_id=2, video_token_id=3
    )
    return VideoLlama3ForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor(compression: bool = False) -> Any:
    size = {"size": {"shortest_edge": 16 * 16, "longest_edge": 2**22}, "patch_size": PATCH}
    return VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(**size),
        tokenizer=letter_tokenizer(SPECIAL),
        video_processor=VideoLlama3VideoProcessor(**size, use_token_compression=compression),
    )


TOKENS = {"<image>": "<|image_pad|>", "<video>": "<|video_pad|>"}
FAMILY = Family(build, processor, TOKENS)
