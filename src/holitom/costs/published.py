"""Published shapes by name, with which costs are counted without a checkpoint.

LLaVA-OneVision (arXiv 2408.03326): language models of the Qwen2 Technical Report (arXiv 2407.10671, table 1),
vocabularies padded as in the checkpoints; SigLIP So400m/14 at 384 pixels (arXiv 2303.15343) without its last
layer and its head. The others: `config.json` of Qwen/Qwen2-VL-7B-Instruct, Qwen/Qwen2.5-VL-7B-Instruct,
Qwen/Qwen3-VL-8B-Instruct and zai-org/GLM-4.1V-9B-Thinking on the Hugging Face Hub.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import transformers

from holitom.models import modeling_llava_video
from holitom.models.modeling_llava_video import SIGLIP


class Shape(NamedTuple):
    """A config class of transformers, with the arguments of its two parts and its own."""

    config: str
    text: dict[str, Any]
    vision: dict[str, Any]
    more: dict[str, Any] = {}  # noqa: RUF012  # read only


def _decoder(
    width: int, ffn: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **more,
    }


def _tower(width: int, ffn: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **more,
    }


def _rotary(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "mrope_section": list(sections), **more}}


QWEN3_TOWER = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "out_hidden_size": 4096,
    "patch_size": 16,
    "num_position_embeddings": 2304,
}
QWEN2: dict[str, Any] = {"model_type": "qwen2"}
GATED: dict[str, Any] = {
    "head_dim": 256,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    **_rotary(11, 11, 10, mrope_interleaved=True, rope_theta=1e7, partial_rotary_factor=0.25),
}
QWEN2_7B = (3584, 18944, 28, 28, 4, 152064)
VIT_L, SO400M = (1024, 4096, 24, 16), (1152, 4304, 27, 16)

PUBLISHED = {
    "llava-onevision-qwen2-0.5b": Shape(
        "LlavaOnevisionConfig",
        _decoder(896, 4864, 24, 14, 2, 151936, **QWEN2, tie_word_embeddings=True),
        SIGLIP,
    ),
    "llava-onevision-qwen2-7b": Shape("LlavaOnevisionConfig", _decoder(*QWEN2_7B, **QWEN2), SIGLIP),
    "llava-onevision-qwen2-72b": Shape(
        "LlavaOnevisionConfig", _decoder(8192, 29568, 80, 64, 8, 152064, **QWEN2), SIGLIP
    ),
    "qwen2-vl-7b": Shape(
        "Qwen2VLConfig",
        _decoder(*QWEN2_7B, **_rotary(16, 24, 24, rope_theta=1e6)),
        {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4},
    ),
    "qwen2.5-vl-7b": Shape(
        "Qwen2_5_VLConfig",
        _decoder(*QWEN2_7B, **_rotary(16, 24, 24, rope_theta=1e6)),
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
    ),
    "qwen3-vl-8b": Shape(
        "Qwen3VLConfig",
        _decoder(
            *(4096, 12288, 36, 32, 8, 151936),
            head_dim=128,
            **_rotary(24, 20, 20, mrope_interleaved=True, rope_theta=5e6),
        ),
        {**QWEN3_TOWER, "deepstack_visual_indexes": [8, 16, 24]},
    ),
    "glm-4.1v-9b": Shape(
        "Glm4vConfig",
        _decoder(
            *(4096, 13696, 40, 32, 2, 151552), **_rotary(8, 12, 12, partial_rotary_factor=0.5, rope_theta=1e4)
        ),
        {
            "depth": 24,
            "hidden_size": 1536,
            "intermediate_size": 13696,
            "num_heads": 12,
            "out_hidden_size": 4096,
            "image_size": 336,
        },
    ),
}

# Checkpoints: lmms-lab/LLaVA-Video-7B-Qwen2 (arXiv 2410.02713), llava-hf/LLaVA-NeXT-Video-7B-hf
# (LLaVA-NeXT's blog, April 2024), OpenGVLab/InternVL3-8B-hf (2504.10479),
# HuggingFaceTB/SmolVLM2-2.2B-Instruct (2504.05299), DAMO-NLP-SG/VideoLLaMA3-7B (2501.13106).
PUBLISHED |= {
    "llava-video-7b-qwen2": Shape("LlavaVideoConfig", _decoder(*QWEN2_7B, **QWEN2), SIGLIP),
    "llava-next-video-7b": Shape(
        "LlavaNextVideoConfig",
        _decoder(4096, 11008, 32, 32, 32, 32064, model_type="llama"),
        _tower(*VIT_L, model_type="clip_vision_model", image_size=336, patch_size=14),
    ),
    "internvl3-8b": Shape(
        "InternVLConfig",
        _decoder(3584, 18944, 28, 28, 4, 151674, **QWEN2),
        _tower(*VIT_L, image_size=[448, 448], patch_size=[14, 14], attention_bias=True),
        {"tie_word_embeddings": False},
    ),
    "smolvlm2-2.2b": Shape(
        "SmolVLMConfig",
        _decoder(2048, 8192, 24, 32, 32, 49280, model_type="llama"),
        _tower(*SO400M, image_size=384, patch_size=14),
        {"scale_factor": 3, "image_token_id": 49190},
    ),
    "videollama3-7b": Shape(
        "VideoLlama3Config",
        _decoder(*QWEN2_7B, **QWEN2),
        _tower(*SO400M, patch_size=14),
    ),
}

# Checkpoints: Qwen/Qwen3.5-9B (its model card, and the defaults of its config class), openbmb/MiniCPM-V-4.6
# (config.json; its language model is Qwen3.5-0.8B's).
PUBLISHED |= {
    "qwen3.5-9b": Shape(
        "Qwen3_5Config",
        _decoder(4096, 12288, 32, 16, 4, 248320, **GATED),
        QWEN3_TOWER,
    ),
    "minicpm-v-4.6": Shape(
        "MiniCPMV4_6Config",
        _decoder(
            *(1024, 3584, 24, 8, 2, 248320),
            model_type="qwen3_5_text",
            **{**GATED, "linear_num_value_heads": 16},
        ),
        _tower(*SO400M, image_size=980, patch_size=14),
        {"tie_word_embeddings": True, "video_token_id": 248077},
    ),
}

# The thinkers of Qwen/Qwen2.5-Omni-7B (2503.20215) and Qwen/Qwen3-Omni-30B-A3B-Instruct (2509.17765), which
# are the vision language models of their generation with an audio tower.
PUBLISHED |= {
    "qwen2.5-omni-7b": PUBLISHED["qwen2.5-vl-7b"]._replace(
        config="Qwen2_5OmniThinkerConfig",
        vision={n: v for n, v in PUBLISHED["qwen2.5-vl-7b"].vision.items() if n != "tokens_per_second"},
    ),
    "qwen3-omni-30b-a3b": Shape(
        "Qwen3OmniMoeThinkerConfig",
        _decoder(
            *(2048, 768, 48, 32, 4, 152064),
            head_dim=128,
            moe_intermediate_size=768,
            num_experts=128,
            num_experts_per_tok=8,
            **_rotary(24, 20, 20, mrope_interleaved=True, rope_theta=1e6),
        ),
        {**PUBLISHED["qwen3-vl-8b"].vision, "out_hidden_size": 2048},
        {"audio_config": {"output_dim": 2048}},
    ),
}


def published_config(name: str) -> Any:
    """Make the transformers config of a name in `PUBLISHED`."""
    shape = PUBLISHED[name]
    own: Any = getattr(modeling_llava_video, shape.config, None)
    kind: Any = own or getattr(transformers, shape.config)
    return kind(text_config=dict(shape.text), vision_config=dict(shape.vision), **shape.more)
