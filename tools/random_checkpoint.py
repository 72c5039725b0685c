"""A checkpoint of LLaVA-OneVision's true shapes with random weights, for benchmarks of a server.

python tools/random_checkpoint.py llava-onevision-qwen2-0.5b FOLDER              # the whole model
python tools/random_checkpoint.py llava-onevision-qwen2-0.5b FOLDER --thin-tower # its language model's costs

With --thin-tower the vision tower is one layer 64 wide. It gives as many tokens as the true one at next to no
cost, so what is timed is the language model (and decoding the video, and merging). Answers are nonsense with
either; the tokenizer has one made-up word for each id.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from published_names import rename
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
)

from holitom.bench.random_weights import random_model
from holitom.costs import skeleton

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<unk>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }} {% else %}<{{ part['type'] }}> {% endif %}"
    "{% endfor %}{% endif %}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
THIN = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}


def write(name: str, folder: Path, thin_tower: bool, dtype: torch.dtype) -> None:
    """Config, weights, processor and tokenizer, as a published checkpoint has them."""
    config = skeleton(name).config
    for key, value in THIN.items() if thin_tower else ():
        setattr(config.vision_config, key, value)
    config.image_token_index = config.image_token_id = SPECIAL.index("<image>")
    config.video_token_index = config.video_token_id = SPECIAL.index("<video>")
    text = config.text_config
    text.bos_token_id, text.eos_token_id, text.pad_token_id = None, SPECIAL.index("<|im_end|>"), 0
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    model = random_model(str(folder), 1, dtype, torch.device("cpu"))
    model.generation_config.eos_token_id = text.eos_token_id
    model.save_pretrained(folder, max_shard_size="1TB")
    rename(folder / "model.safetensors")
    processor(config).save_pretrained(folder)


def processor(config: Any) -> Any:
    """The family's own processor, its tokenizer with a word for each id of the vocabulary."""
    words = [*SPECIAL, *(f"w{index}" for index in range(len(SPECIAL), config.text_config.vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            unk_token="<unk>",
            additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        ),
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", help="llava-onevision-qwen2-0.5b, -7b or -72b")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--thin-tower", action="store_true")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    given = parser.parse_args()
    write(given.name, given.folder, given.thin_tower, getattr(torch, given.dtype))
