"""SmolVLM2: frames are images behind "Frame from 00:01:", a paragraph before and after a video."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from support.families import Family
from support.families.letters import letter_tokenizer, vocabulary

SIDE, PATCH = 48, 8  # 6 x 6 patches, 3 x 3 tokens
SPECIAL = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
}


def build(attention: str, dtype: torch.dtype) -> Any:
    vision = SmolVLMVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=vocabulary(SPECIAL),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    config = SmolVLMConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_id=3, scale_factor=2
    )
    model = SmolVLMForConditionalGeneration._from_config(config, attn_implementation=attention)
    model.tokenizer = letter_tokenizer(SPECIAL)
    return model


def processor() -> Any:
    size = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**size, do_image_splitting=False),
        tokenizer=letter_tokenizer(SPECIAL),
        video_processor=SmolVLMVideoProcessor(**size),
        image_seq_len=9,
    )


# Its processor puts images and videos into one `pixel_values` and keeps only the videos, and it says of every
# video of a batch that it has the frames of the longest.
FAMILY = Family(
    build,
    processor,
    images=False,
    videos=((8, 48, 64), (8, 32, 48)),
    silent=("image_token_id",),
    since="5.23",
)
