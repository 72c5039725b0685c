"""What the bundled models share, and what a training script asks of the module of one.

A module `tiny_<name>` has the functions of `Tiny`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from holitom.bench import moving_digits as md

NAMES = ("llava", "qwen")
WORDS = (
    *("user", "assistant", "system", "?", ".", ","),
    *md.NUMBERS,
    *md.COLORS,
    *md.SHAPES,
    *md.MOTIONS,
    *("top", "bottom", "first", "last", "start", "end"),
    *"how many scenes are there which shape flashes digits in the scene color comes".split(),
    *"digit is way does move where at what many you a it of to and".split(),
)


class Seen(NamedTuple):
    """Visual tokens `[B, V, D]`, and what DeepStack adds behind the first layers, each `[B, V, D]`."""

    tokens: Tensor
    deep: list[Tensor]


class Layout(NamedTuple):
    """A prompt up to its question.

    Attributes:
        ids: of its P tokens.
        shown: of each, the number of the visual token that stands there; -1 for text.
        positions: `[axes, P]`, where tokens keep their positions whatever is left out; else None.
    """

    ids: list[int]
    shown: list[int]
    positions: Tensor | None


class Tiny(Protocol):
    """A bundled model's architecture.

    Attributes:
        FRAMES_PER_STEP: frames that the tower takes together.
        WIDTH, VISION_WIDTH: of the language model and of the tower.
    """

    NAME: str
    FRAMES_PER_STEP: int
    WIDTH: int
    VISION_WIDTH: int

    def tokenizer(self) -> PreTrainedTokenizerFast: ...
    def build(self, seed: int = 0) -> Any: ...
    def save(self, model: Any, folder: Path) -> None: ...
    def fast(self, model: Any) -> None: ...
    def eyes(self, model: Any) -> list[tuple[str, nn.Parameter]]: ...
    def mouth(self, model: Any) -> list[tuple[str, nn.Parameter]]: ...
    def last_attention(self, model: Any) -> nn.Module: ...
    def last_linear(self, model: Any) -> nn.Linear: ...
    def see(self, model: Any, frames: Tensor) -> Seen: ...
    def layout(self, words: PreTrainedTokenizerFast, times: Sequence[float]) -> Layout: ...
    def placed(self, positions: Tensor) -> Tensor: ...
    def streams(self, deep: list[Tensor], shown: Tensor, length: int) -> dict[str, Any]: ...


def tiny(name: str) -> Tiny:
    """The module of the model called `name`, one of `NAMES`."""
    return cast(Tiny, import_module(f"tiny_{name}"))


@cache
def words_of(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of the model called `name`."""
    return tiny(name).tokenizer()


def word_tokenizer(
    special: Sequence[str], more: Sequence[str], pattern: Regex, additional: list[str]
) -> PreTrainedTokenizerFast:
    """One token for what `pattern` matches, case ignored; `special` tokens come first, unused ones last."""
    words = list(dict.fromkeys([*special, *WORDS, *more]))
    words += [f"<|unused_{i}|>" for i in range(-len(words) % 32)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=additional,
        padding_side="left",
        model_max_length=4096,
    )


def sincos(side: int, width: int) -> Tensor:
    """`[side * side, width]` sine-cosine position codes over rows and columns."""
    quarter = width // 4
    rate = math.pi / side * torch.exp(torch.arange(quarter) / (quarter - 1) * math.log(side * 0.6))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.flatten()[:, None] * rate for axis in (x, y)]
    return torch.cat([wave for a in angles for wave in (a.sin(), a.cos())], 1)


def alike_heads(width: int, heads: int) -> tuple[Tensor, Tensor]:
    """First weights `[width, width]` of a tower's queries and keys.

    In half of the heads queries start equal to keys: a patch first looks at patches like itself and near it.
    The other half starts out looking everywhere.
    """
    alike = torch.cat([torch.linalg.qr(torch.randn(width, width // heads))[0].T for _ in range(heads)])
    alike[width // 2 :] *= 0.2
    query = alike + 0.02 * torch.randn_like(alike)
    key = alike + 0.02 * torch.randn_like(alike)
    key[width // 2 :] = 0.2 * torch.randn(width // 2, width) * width**-0.5
    return query, key


def initialise_text(text: Any, heads: int) -> None:
    """Give a language model its first weights; `heads`: width of all its query heads together."""
    text.embed_tokens.weight.normal_(0, 0.5)
    deep = (2 * len(text.layers)) ** -0.5
    for layer in text.layers:
        for name, weight in layer.named_parameters():
            if weight.ndim == 2:
                gain = deep * 0.5 if "o_proj" in name or "down_proj" in name else 1.0
                weight.normal_(0, gain * weight.shape[1] ** -0.5)
        # As in the tower: in half of the heads a token first looks at tokens like itself.
        layer.self_attn.k_proj.weight[: heads // 2] = layer.self_attn.q_proj.weight[: heads // 2]
