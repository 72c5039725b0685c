"""LLaVA-NeXT-Video: a class token in the tower, features of its last layer but one."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
)

from support.families import TEXT, Family, word_tokenizer

SIDE, PATCH = 64, 8  # 8 x 8 patches, 4 x 4 tokens
PINPOINTS = [[SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
SPECIAL = ["<image>", "<video>"]


def build(attention: str, dtype: torch.dtype, heads: int = 4) -> Any:
    """`heads`: of the language model."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=5 + len(TEXT),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    config = LlavaNextVideoConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=3,
        video_token_index=4,
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
    )
    return LlavaNextVideoForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    size = {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**size),
        image_processor=LlavaNextImageProcessor(**size, image_grid_pinpoints=PINPOINTS),
        tokenizer=word_tokenizer(SPECIAL),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


FAMILY = Family(build, processor, videos=((8, SIDE, SIDE), (8, SIDE, SIDE)))
