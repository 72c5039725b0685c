"""Published shapes by name, so that costs can be counted without a checkpoint at hand.

Language models: Qwen2 Technical Report (arXiv 2407.10671, table 1), vocabularies padded as in the
checkpoints. Vision tower: SigLIP So400m/14 at 384 pixels (arXiv 2303.15343) without its last layer and
its head, as LLaVA-OneVision (arXiv 2408.03326) uses it.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Qwen2Shape(NamedTuple):
    """One row of the report's table."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool


PUBLISHED = {
    "llava-onevision-qwen2-0.5b": Qwen2Shape(896, 4864, 24, 14, 2, 151936, True),
    "llava-onevision-qwen2-7b": Qwen2Shape(3584, 18944, 28, 28, 4, 152064, False),
    "llava-onevision-qwen2-72b": Qwen2Shape(8192, 29568, 80, 64, 8, 152064, False),
}

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}


def published_config(name: str) -> Any:
    """The transformers config of a name in `PUBLISHED`."""
    from transformers import LlavaOnevisionConfig

    text: dict[str, Any] = {"model_type": "qwen2", **PUBLISHED[name]._asdict()}
    return LlavaOnevisionConfig(vision_config=dict(SIGLIP), text_config=text)
