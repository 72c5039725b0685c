"""InternVL: frames are images behind "Frame1: ", a class token in the tower, 2 x 2 patches side by side."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen3Config,
)

from support.families import Family
from support.families.letters import letter_tokenizer, vocabulary

SIDE, PATCH = 48, 8  # 6 x 6 patches, 3 x 3 tokens
SPECIAL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def build(
    attention: str, dtype: torch.dtype, decoder: type[Any] = Qwen3Config, heads: int = 4, **more: Any
) -> Any:
    """`decoder`: config class of the language model; `heads`, `more`: of its settings."""
    vision = InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=[SIDE, SIDE],
        patch_size=[PATCH, PATCH],
        use_qk_norm=True,
        norm_type="rms_norm",
        layer_scale_init_value=1.0,
    )
    text = decoder(
        vocab_size=vocabulary(SPECIAL),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=64 // heads,
        max_position_embeddings=8192,
        eos_token_id=1,
        pad_token_id=0,
        **more,
    )
    config = InternVLConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=4,
        image_seq_length=9,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration._from_config(config, attn_implementation=attention)
    model.tokenizer = letter_tokenizer(SPECIAL)
    return model


def processor() -> Any:
    size = {"height": SIDE, "width": SIDE}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, max_patches=4),
        tokenizer=letter_tokenizer(SPECIAL),
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=9,
    )


FAMILY = Family(
    build,
    processor,
    {"<image>": "<IMG_CONTEXT>"},
    videos=((8, 48, 48), (8, 32, 64)),
    silent=("image_token_id",),
)
