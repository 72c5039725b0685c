"""GLM-OCR: GLM-4.6V's processor and parts, and a tower that normalises queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GlmOcrConfig, GlmOcrForConditionalGeneration

from support.families import Family
from support.families.glm4v import IDS, LANGUAGE, TOKENS, TOWER
from support.families.glm46v import processor


def build(attention: str, dtype: torch.dtype) -> Any:
    config = GlmOcrConfig(
        text_config={**LANGUAGE, "head_dim": 16}, vision_config={**TOWER, "rms_norm_eps": 1e-5}, **IDS
    )
    return GlmOcrForConditionalGeneration._from_config(config, attn_implementation=attention)


FAMILY = Family(build, processor, TOKENS, images=False, beams=False)
