"""A tokenizer that writes any text and reads it back: one token a byte, besides its special ones."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def letter_tokenizer(special: dict[str, str]) -> Any:
    """`<pad>` is 0, `<end>` 1, then `special` (by the attribute that a processor asks for), then bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<end>", *special.values(), *letters]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", extra_special_tokens=special
    )


def vocabulary(special: dict[str, str]) -> int:
    """How many tokens it has."""
    return 2 + len(special) + 256
