"""A Qwen2.5-VL of the real classes with random weights, with head sizes that vLLM's CPU attention knows."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

SPECIAL = ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<unk>"]
SPECIAL += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = SPECIAL + [f"w{index}" for index in range(56)]
VIDEO, IMAGE = (
    "<|vision_start|> <|video_pad|> <|vision_end|>",
    "<|vision_start|> <|image_pad|> <|vision_end|>",
)


def save(folder: Path) -> None:
    """Write model and processor as a checkpoint is published."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
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
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 128,
            "patch_size": 8,
            "window_size": 32,  # 2 x 2 tokens, so that frames of 3 x 4 are cut into unequal windows
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        vision_start_token_id=WORDS.index("<|vision_start|>"),
        vision_end_token_id=WORDS.index("<|vision_end|>"),
        image_token_id=WORDS.index("<|image_pad|>"),
        video_token_id=WORDS.index("<|video_pad|>"),
        tie_word_embeddings=False,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:  # loud enough that every token matters
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5)
        model.get_input_embeddings().weight.normal_(0, 1)
        model.lm_head.weight[: len(SPECIAL)] = 0  # greedy answers are words
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=[word for word in SPECIAL if word not in ("<|im_end|>", "<|endoftext|>")],
    )
    pixels = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 64 * 64}}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        video_processor=Qwen2VLVideoProcessor(**pixels, cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template="{{ messages }}",
    ).save_pretrained(folder)
