"""Qwen's families with random weights, of the real classes, with heads that vLLM's CPU attention takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIAL = ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<unk>"]
SPECIAL += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TIMES = ["seconds>", *(f"<{tenths / 10}" for tenths in range(40))]  # of Qwen3-VL's time stamps
WORDS = SPECIAL + [f"w{index}" for index in range(56)] + TIMES
VIDEO, IMAGE = (
    "<|vision_start|> <|video_pad|> <|vision_end|>",
    "<|vision_start|> <|image_pad|> <|vision_end|>",
)

LANGUAGE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
    "bos_token_id": None,
    "eos_token_id": WORDS.index("<|im_end|>"),
    "pad_token_id": 0,
}
LANGUAGE_3 = {
    **LANGUAGE,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "rope_parameters": {**LANGUAGE["rope_parameters"], "mrope_interleaved": True},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
TOWER = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 128,
    "patch_size": 8,
}
TOWER_3 = {**TOWER, "depth": 4, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1, 2]}
HYBRID = {
    **LANGUAGE,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "layer_types": [f"{kind}_attention" for kind in "linear full linear full".split()],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
PLAIN_TOWER_3 = {name: value for name, value in TOWER_3.items() if name != "deepstack_visual_indexes"}
TOWERS: dict[str, dict[str, Any]] = {
    "Qwen2VL": {
        "depth": 2,
        "embed_dim": 64,
        "hidden_size": 128,
        "num_heads": 4,
        "patch_size": 8,
        "mlp_ratio": 2,
    },
    "Qwen2_5_VL": {
        **TOWER,
        "window_size": 32,  # 2 x 2 tokens, so that frames of 5 x 7 are cut into unequal windows
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    },
    "Qwen3VL": TOWER_3,
    "Qwen3VLMoe": TOWER_3,
    "Qwen3_5": PLAIN_TOWER_3,
    "Qwen3_5Moe": PLAIN_TOWER_3,
}
LANGUAGES = {
    "Qwen2VL": LANGUAGE,
    "Qwen2_5_VL": LANGUAGE,
    "Qwen3VL": LANGUAGE_3,
    "Qwen3VLMoe": {**LANGUAGE_3, **EXPERTS},
    "Qwen3_5": HYBRID,
    "Qwen3_5Moe": {**HYBRID, **EXPERTS, "shared_expert_intermediate_size": 32},
}
FAMILIES = tuple(TOWERS)


def save(folder: Path, family: str = "Qwen2_5_VL") -> None:
    """Write model and processor of one of `FAMILIES` as a checkpoint is published."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        text_config=LANGUAGES[family],
        vision_config=TOWERS[family],
        vision_start_token_id=WORDS.index("<|vision_start|>"),
        vision_end_token_id=WORDS.index("<|vision_end|>"),
        image_token_id=WORDS.index("<|image_pad|>"),
        video_token_id=WORDS.index("<|video_pad|>"),
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:  # loud enough that every token matters
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5)
        model.get_input_embeddings().weight.normal_(0, 1)
        model.lm_head.weight[: len(SPECIAL)] = 0  # greedy answers are words
    model.save_pretrained(folder)
    if family == "Qwen3VLMoe":
        _experts_as_published(folder / "model.safetensors")
    processor(family).save_pretrained(folder)


def _experts_as_published(file: Path) -> None:
    """Published checkpoints have experts' matrices transposed; transformers reads both and writes its own."""
    weights = load_file(file)
    turned = {
        name: w.transpose(1, 2).contiguous() if ".experts." in name else w for name, w in weights.items()
    }
    save_file(turned, file, metadata={"format": "pt"})


def processor(family: str) -> Any:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=[word for word in SPECIAL if word not in ("<|im_end|>", "<|endoftext|>")],
    )
    # transformers reads a Qwen3.5 checkpoint's tokenizer as a BPE of its own, but added words as they are.
    tokenizer.add_tokens(WORDS[len(SPECIAL) :])
    third = family.startswith("Qwen3")
    # Qwen3-VL's limits are for all of a video's pixels, the others' for a frame's.
    size = {"shortest_edge": 256, "longest_edge": 2**20 if third else 2**14}
    pixels: dict[str, Any] = {"patch_size": 8, "merge_size": 2, "size": size}
    if third:  # vLLM takes the images' for videos too; published checkpoints have one for both
        pixels |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    videos = transformers.Qwen3VLVideoProcessor if third else transformers.Qwen2VLVideoProcessor
    kind: Any = getattr(transformers, f"{'Qwen3VL' if third else family}Processor")
    return kind(
        image_processor=transformers.Qwen2VLImageProcessor(**pixels),
        video_processor=videos(**pixels, cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template="{{ messages }}",
    )
