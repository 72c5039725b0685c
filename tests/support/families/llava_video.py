"""A small LLaVA-Video checkpoint in the layout of the original repository."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionVideoProcessor, SiglipVisionConfig

from holitom.models.modeling_llava_video import (
    LlavaVideoForConditionalGeneration,
    LlavaVideoProcessor,
    converted_config,
)
from support.families import Family
from support.tiny import PATCH, SIDE, WORDS, build_processor, video

__all__ = ["FRAMES", "original_checkpoint", "video"]

FRAMES = 4
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "image_size": SIDE}
TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "hidden_act": "silu",
}


def build(attention: str, dtype: torch.dtype) -> Any:
    with TemporaryDirectory() as folder:
        config = converted_config(_config(Path(folder)))
    config.image_token_index, config.video_token_index = (
        WORDS.index(word) for word in ("<image>", "<video>")
    )
    return LlavaVideoForConditionalGeneration._from_config(config, attn_implementation=attention)


def processor() -> Any:
    size = {"height": SIDE, "width": SIDE}
    grid = [[SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    return LlavaVideoProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        tokenizer=build_processor().tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
    )


FAMILY = Family(build, processor, videos=((8, SIDE, SIDE), (8, SIDE, SIDE)))


def original_checkpoint(folder: Path) -> Path:
    """Write one with random weights into `folder`: its keys, its config, a tokenizer without placeholders."""
    (folder / "config.json").write_text(json.dumps(_config(folder)))
    build_processor().tokenizer.save_pretrained(folder)
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config(folder: Path) -> dict[str, Any]:
    """Its configuration, and that of its tower in a folder inside `folder`."""
    tower = folder / "siglip"
    SiglipVisionConfig(**VISION, patch_size=PATCH, num_hidden_layers=3).save_pretrained(tower)
    return {
        **TEXT,
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava",
        "mm_vision_tower": str(tower),
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_spatial_pool_mode": "average",
        "mm_newline_position": "grid",
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
        "use_sliding_window": False,
        "add_faster_video": False,
    }


def _weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def matrix(out: int, into: int) -> torch.Tensor:
        return torch.randn(out, into, generator=generator) * 1.5 * into**-0.5

    def near(size: int, value: float) -> torch.Tensor:
        return value + 0.1 * torch.randn(size, generator=generator)

    width, ffn, kv = TEXT["hidden_size"], TEXT["intermediate_size"], 32
    seen, seen_ffn = VISION["hidden_size"], VISION["intermediate_size"]
    tower = "model.vision_tower.vision_tower.vision_model"
    weights = {
        "model.embed_tokens.weight": torch.randn(len(WORDS), width, generator=generator),
        "model.norm.weight": near(width, 1),
        "lm_head.weight": matrix(len(WORDS), width),
        "model.image_newline": torch.randn(width, generator=generator),
        "model.mm_projector.0.weight": matrix(width, seen),
        "model.mm_projector.0.bias": near(width, 0),
        "model.mm_projector.2.weight": matrix(width, width),
        "model.mm_projector.2.bias": near(width, 0),
        f"{tower}.embeddings.patch_embedding.weight": matrix(seen, 3 * PATCH**2).view(seen, 3, PATCH, PATCH),
        f"{tower}.embeddings.patch_embedding.bias": near(seen, 0),
        f"{tower}.embeddings.position_embedding.weight": 0.1 * matrix((SIDE // PATCH) ** 2, seen),
        f"{tower}.post_layernorm.weight": near(seen, 1),
        f"{tower}.post_layernorm.bias": near(seen, 0),
    }
    for index in range(2):  # the third layer is cut off: its output would not be read
        layer = f"{tower}.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights[f"{layer}.self_attn.{name}.weight"] = matrix(seen, seen)
            weights[f"{layer}.self_attn.{name}.bias"] = near(seen, 0)
        for name, out, into in (("fc1", seen_ffn, seen), ("fc2", seen, seen_ffn)):
            weights[f"{layer}.mlp.{name}.weight"] = matrix(out, into)
            weights[f"{layer}.mlp.{name}.bias"] = near(out, 0)
        for name in ("layer_norm1", "layer_norm2"):
            weights[f"{layer}.{name}.weight"] = near(seen, 1)
            weights[f"{layer}.{name}.bias"] = near(seen, 0)
    for index in range(int(TEXT["num_hidden_layers"])):
        layer = f"model.layers.{index}"
        for name, out in (("q_proj", width), ("k_proj", kv), ("v_proj", kv)):
            weights[f"{layer}.self_attn.{name}.weight"] = matrix(out, width)
            weights[f"{layer}.self_attn.{name}.bias"] = near(out, 0)
        weights[f"{layer}.self_attn.o_proj.weight"] = matrix(width, width)
        for name, out, into in (
            ("gate_proj", ffn, width),
            ("up_proj", ffn, width),
            ("down_proj", width, ffn),
        ):
            weights[f"{layer}.mlp.{name}.weight"] = matrix(out, into)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{name}.weight"] = near(width, 1)
    return weights
