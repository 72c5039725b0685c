"""GLM-4.1V: a video's frames stand as images between two marks, each with its second behind it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
)

from support.families import TEXT, Family, word_tokenizer

SPECIAL = [
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
]
TOKENS = {
    "<video>": "<|begin_of_video|><|video|><|end_of_video|>",
    "<image>": "<|begin_of_image|><|image|><|end_of_image|>",
}
IDS = {
    "image_start_token_id": 3,
    "image_end_token_id": 4,
    "video_start_token_id": 5,
    "video_end_token_id": 6,
    "image_token_id": 7,
    "video_token_id": 8,
    "tie_word_embeddings": False,
}
PATCHES = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 2**22}}
LANGUAGE = {
    "vocab_size": 9 + len(TEXT) + 10,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [1, 1, 2],
        "partial_rotary_factor": 0.5,
    },
}
TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 64,
    "patch_size": 8,
    "image_size": 48,
}


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Glm4vConfig(text_config=LANGUAGE, vision_config=TOWER, **IDS)
    return Glm4vForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return Glm4vProcessor(
        image_processor=Glm4vImageProcessor(**PATCHES),
        video_processor=Glm4vVideoProcessor(**PATCHES),
        tokenizer=word_tokenizer(SPECIAL, [*TEXT, *map(str, range(10))]),
    )


# The stock model counts a video's placeholders as an image's, and so takes neither both nor beams.
FAMILY = Family(build, processor, TOKENS, images=False, beams=False)
