"""GLM-4.6V: GLM-4.1V's parts under a class and a processor of its own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
)

from support.families import TEXT, Family, word_tokenizer
from support.families.glm4v import IDS, LANGUAGE, PATCHES, SPECIAL, TOKENS, TOWER


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Glm46VConfig(
        text_config={"model_type": "glm4v_text", **LANGUAGE},
        vision_config={"model_type": "glm4v_vision", **TOWER},
        **IDS,
    )
    return Glm46VForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return Glm46VProcessor(
        image_processor=Glm46VImageProcessor(**PATCHES),
        video_processor=Glm46VVideoProcessor(**PATCHES),
        tokenizer=word_tokenizer(SPECIAL, [*TEXT, *map(str, range(10))]),
    )


FAMILY = Family(build, processor, TOKENS, images=False, beams=False)
