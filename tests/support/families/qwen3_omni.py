"""Qwen3-Omni's thinker: Qwen3-VL with a mixture of experts, DeepStack and ears."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from support.families import Family
from support.families.omni import AUDIO, IDS, SETTINGS, SILENT, VOCABULARY, parts
from support.families.qwen import TOKENS
from support.families.qwen3_vl import LANGUAGE, TOWER
from support.families.qwen3_vl_moe import EXPERTS


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Qwen3OmniMoeThinkerConfig(
        text_config={**LANGUAGE, **EXPERTS, "vocab_size": VOCABULARY},
        vision_config=TOWER,
        audio_config={**AUDIO, "downsample_hidden_size": 8},
        image_token_id=5,
        video_token_id=6,
        audio_token_id=9,
        **IDS,
    )
    return Qwen3OmniMoeThinkerForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return Qwen3OmniMoeProcessor(**parts())


FAMILY = Family(build, processor, TOKENS, silent=SILENT, settings=SETTINGS, later_videos=False, since="5.21")
