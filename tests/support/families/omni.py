"""What the Omni families' small models have in common: Qwen's prompts, and ears."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor

from support.families import word_tokenizer
from support.families.qwen import PATCHES

SPECIAL = {
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "audio_token": "<|audio_pad|>",
}
IDS = {
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
    "audio_start_token_id": 7,
    "audio_end_token_id": 8,
    "tie_word_embeddings": False,
}
# Without a cache the stock models look for the sound or picture behind each mark, answers included.
SILENT = (
    "image_token_id",
    "video_token_id",
    "audio_token_id",
    "vision_start_token_id",
    "audio_start_token_id",
)
VOCABULARY = 10 + 48
AUDIO = {
    "num_mel_bins": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 32,
    "output_dim": 64,
}


def parts() -> dict[str, Any]:
    """Of a processor."""
    return {
        "image_processor": Qwen2VLImageProcessor(**PATCHES),
        "video_processor": Qwen2VLVideoProcessor(**PATCHES, cap_pixels_per_frame=False),
        "feature_extractor": WhisperFeatureExtractor(feature_size=AUDIO["num_mel_bins"]),
        "tokenizer": word_tokenizer(SPECIAL),
    }


# Their processors bring a size of their own, which would make these small videos large.
SETTINGS = {"videos_kwargs": {"size": PATCHES["size"]}}
