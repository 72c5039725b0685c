"""At published sizes: `holitom flops` counts what each family's own processor makes of a real video."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import pytest
from support.families.internvl import SPECIAL as INTERNVL
from support.families.letters import letter_tokenizer
from support.families.llava_next_video import SPECIAL as LLAVA_NEXT_VIDEO
from support.families.minicpmv4_6 import SPECIAL as MINICPMV
from support.families.smolvlm import SPECIAL as SMOLVLM
from support.families.video_llama3 import SPECIAL as VIDEO_LLAMA3
from transformers import (
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaNextImageProcessor,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionVideoProcessor,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
)
from transformers.models.got_ocr2 import GotOcr2ImageProcessor

from holitom.flops import costs
from holitom.models.modeling_llava_video import LlavaVideoProcessor


def llava_video() -> Any:
    return LlavaVideoProcessor(
        image_processor=LlavaOnevisionImageProcessor(),
        tokenizer=letter_tokenizer({"image_token": "<image>", "video_token": "<video>"}),
        video_processor=LlavaOnevisionVideoProcessor(),
        num_image_tokens=27 * 27,
        vision_feature_select_strategy="full",
    )


def llava_next_video() -> Any:
    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**size),
        image_processor=LlavaNextImageProcessor(),
        tokenizer=letter_tokenizer({f"{word[1:-1]}_token": word for word in LLAVA_NEXT_VIDEO}),
        patch_size=14,
        vision_feature_select_strategy="default",
    )


def internvl() -> Any:
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(),
        tokenizer=letter_tokenizer(INTERNVL),
        video_processor=InternVLVideoProcessor(size={"height": 448, "width": 448}),
    )


def smolvlm() -> Any:
    size = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 384}}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(),
        tokenizer=letter_tokenizer(SMOLVLM),
        video_processor=SmolVLMVideoProcessor(**size),
        image_seq_len=81,
    )


def video_llama3() -> Any:
    return VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(),
        tokenizer=letter_tokenizer(VIDEO_LLAMA3),
        video_processor=VideoLlama3VideoProcessor(use_token_compression=False),
    )


def minicpmv() -> Any:
    return MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessor(),
        tokenizer=letter_tokenizer(MINICPMV),
        video_processor=MiniCPMV4_6VideoProcessor(),
    )


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "llava-video-7b-qwen2": (llava_video, "<video>"),
    "llava-next-video-7b": (llava_next_video, "<video>"),
    "internvl3-8b": (internvl, "<IMG_CONTEXT>"),
    "smolvlm2-2.2b": (smolvlm, "<image>"),
    "videollama3-7b": (video_llama3, "<|video_pad|>"),
    "minicpm-v-4.6": (minicpmv, "<|video_pad|>"),
}


@pytest.mark.parametrize("name", CASES)
def test_32_frames_of_640_by_360(name: str) -> None:
    counted = costs(name, 32, [0.1], "holitom-outer", size=(640, 360))
    build, mark = CASES[name]
    processor = build()
    inputs = processor(
        text=[mark if mark == "<|video_pad|>" else "<video>"],
        videos=[np.zeros((32, 360, 640, 3), dtype=np.uint8)],
        do_sample_frames=False,
        video_metadata=[{"fps": 1.0, "total_num_frames": 32, "frames_indices": list(range(32))}],
        return_tensors="pt",
    )
    vision = counted.vision
    placeholders = int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(mark)).sum())
    assert placeholders == vision.frames * vision.tokens + vision.separators
    full, outer = counted.rows
    assert (full.plan.sent, outer.plan.sent) == (32 * vision.tokens, 32 * ceil(vision.tokens / 10))
    assert outer.prefill.operations < full.prefill.operations / 4
    assert counted.vision.importance > 0
