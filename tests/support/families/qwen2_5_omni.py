"""Qwen2.5-Omni's thinker: Qwen2.5-VL with queries and keys of the tower projected apart, and ears."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from support.families import Family
from support.families.omni import AUDIO, IDS, SETTINGS, SILENT, VOCABULARY, parts
from support.families.qwen import TEXT_MODEL, TOKENS
from support.families.qwen2_5_vl import LANGUAGE, TOWER


def build(attention: str, dtype: torch.dtype) -> Any:
    config = Qwen2_5OmniThinkerConfig(
        text_config={**TEXT_MODEL, **LANGUAGE, "vocab_size": VOCABULARY},
        vision_config={name: value for name, value in TOWER.items() if name != "tokens_per_second"},
        audio_config=AUDIO,
        image_token_index=5,
        video_token_index=6,
        audio_token_index=9,
        **IDS,
    )
    return Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    return Qwen2_5OmniProcessor(**parts())


FAMILY = Family(build, processor, TOKENS, silent=SILENT, settings=SETTINGS, later_videos=False, since="5.21")
