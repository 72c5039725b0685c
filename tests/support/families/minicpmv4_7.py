"""MiniCPM-V 4.7: tokens and the marks around them are numbered on three axes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration, MiniCPMV4_7Processor

from support.families import Family
from support.families.minicpmv4_6 import PARTS, TOKENS
from support.families.minicpmv4_6 import processor as older

MARKS = {
    "image_start_id": 4,
    "image_end_id": 5,
    "slice_start_id": 6,
    "slice_end_id": 7,
}


def build(attention: str, dtype: torch.dtype) -> Any:
    newline = processor().tokenizer("\n")["input_ids"][0]
    config = MiniCPMV4_7Config(**PARTS, **MARKS, newline_id=newline)
    return MiniCPMV4_7ForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    made = older()
    return MiniCPMV4_7Processor(made.image_processor, made.video_processor, made.tokenizer)


FAMILY = Family(build, processor, TOKENS, later_videos=False, rounding=3e-3, since="5.21")
