"""At published sizes: `holitom flops` counts what each family's own processor makes of a real video."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from packaging.version import Version
from support.families.internvl import SPECIAL as INTERNVL
from support.families.letters import letter_tokenizer
from support.families.llava_next_video import SPECIAL as LLAVA_NEXT_VIDEO
from support.families.minicpmv4_6 import SPECIAL as MINICPMV
from support.families.omni import SPECIAL as OMNI
from support.families.smolvlm import SPECIAL as SMOLVLM
from support.families.video_llama3 import SPECIAL as VIDEO_LLAMA3
from transformers import (
    Cosmos3OmniConfig,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    GlmOcrConfig,
    HyperCLOVAXVisionV2Config,
    HyperCLOVAXVisionV2Processor,
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
    Qwen2_5OmniProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.got_ocr2 import GotOcr2ImageProcessor

from holitom.costs import costs
from holitom.costs.published import PUBLISHED
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


def qwen_omni(kind: Any, patch: int) -> Any:
    return kind(
        image_processor=Qwen2VLImageProcessor(patch_size=patch),
        video_processor=Qwen2VLVideoProcessor(patch_size=patch),
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=letter_tokenizer(OMNI),
    )


def hyperclovax() -> Any:
    return HyperCLOVAXVisionV2Processor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        tokenizer=letter_tokenizer({"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}),
    )


def cosmos3() -> Any:
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16),
        video_processor=Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 25165824}),
        tokenizer=letter_tokenizer({name: word for name, word in OMNI.items() if "audio" not in name}),
    )


def glm_ocr() -> Any:
    words = ["<|begin_of_video|>", "<|end_of_video|>", "<|begin_of_image|>", "<|end_of_image|>"]
    marks = {f"mark_{index}": word for index, word in enumerate(words)}
    return Glm46VProcessor(
        image_processor=Glm46VImageProcessor(),
        video_processor=Glm46VVideoProcessor(),
        tokenizer=letter_tokenizer({**marks, "image_token": "<|image|>", "video_token": "<|video|>"}),
    )


# Shapes that are not in the list of published ones: `holitom flops` reads them from a config file.
CONFIGS: dict[str, Callable[[], Any]] = {
    "hyperclovax-seed-think-32b": lambda: HyperCLOVAXVisionV2Config(
        text_config={"model_type": "hyperclovax", "hidden_size": 5120, "intermediate_size": 24192,
                     "num_hidden_layers": 72, "num_attention_heads": 40, "num_key_value_heads": 8,
                     "vocab_size": 128256},
        vision_config={"model_type": "qwen2_5_vl_vision", "hidden_size": 1280, "out_hidden_size": 5120},
    ),
    "cosmos3-nano": lambda: Cosmos3OmniConfig(
        text_config={**PUBLISHED["qwen3-vl-8b"].text, "model_type": "qwen3_vl_text"},
        vision_config={**PUBLISHED["qwen3-vl-8b"].vision, "model_type": "qwen3_vl_vision"},
    ),
    "glm-ocr": GlmOcrConfig,
}  # fmt: skip


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
    "qwen2.5-omni-7b": (partial(qwen_omni, Qwen2_5OmniProcessor, 14), "<|video_pad|>"),
    "qwen3-omni-30b-a3b": (partial(qwen_omni, Qwen3OmniMoeProcessor, 16), "<|video_pad|>"),
    "hyperclovax-seed-think-32b": (hyperclovax, "<|video_pad|>"),
    "cosmos3-nano": (cosmos3, "<|video_pad|>"),
    "glm-ocr": (glm_ocr, "<|image|>"),
    "minicpm-v-4.6": (minicpmv, "<|video_pad|>"),
}


# The first transformers whose own processor makes these prompts.
SINCE = {"smolvlm2-2.2b": "5.23", "qwen2.5-omni-7b": "5.21", "qwen3-omni-30b-a3b": "5.21"}


LONG = ("minicpm-v-4.6", "hyperclovax-seed-think-32b")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in CASES]
)
def test_32_frames_of_640_by_360(name: str, tmp_path: Path) -> None:
    if Version(transformers.__version__) < Version(SINCE.get(name, "0")):
        pytest.skip(f"{name} needs transformers {SINCE[name]}")
    model = name
    if name in CONFIGS:
        model = str(tmp_path / "config.json")
        CONFIGS[name]().to_json_file(model)
    counted = costs(model, 32, [0.1], "holitom-outer", size=(640, 360))
    build, mark = CASES[name]
    processor = build()
    known = processor.tokenizer.get_vocab()
    inputs = processor(
        text=[next(token for token in ("<video>", "<|video|>", mark) if token in known)],
        videos=[np.zeros((32, 360, 640, 3), dtype=np.uint8)],
        do_sample_frames=False,
        video_metadata=[{"fps": 1.0, "total_num_frames": 32, "frames_indices": list(range(32))}],
        return_tensors="pt",
    )
    vision = counted.vision
    placeholders = int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(mark)).sum())
    assert placeholders == vision.frames * vision.tokens + vision.separators
    frames = vision.frames
    assert frames in (16, 32)  # two to a temporal patch, or each by itself
    full, outer = counted.rows
    assert (full.plan.sent, outer.plan.sent) == (frames * vision.tokens, frames * ceil(vision.tokens / 10))
    assert outer.prefill.operations < full.prefill.operations / 4
    assert counted.vision.importance > 0
