"""What the Qwen families' small models have in common."""

from __future__ import annotations

from typing import Any

from support.families import TEXT, word_tokenizer

SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TOKENS = {
    "<video>": "<|vision_start|><|video_pad|><|vision_end|>",
    "<image>": "<|vision_start|><|image_pad|><|vision_end|>",
}
PATCH = 8
PATCHES = {"patch_size": PATCH, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 2**22}}
IDS = {
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
    "image_token_id": 5,
    "video_token_id": 6,
    "tie_word_embeddings": False,
}
TEXT_MODEL: dict[str, Any] = {
    "vocab_size": 7 + len(TEXT),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def tokenizer() -> Any:
    return word_tokenizer(SPECIAL)
