"""Methods that hang on no paper: what the runtime does can be told from what they keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from holitom import MergedTokens, Method, VideoTokens


@dataclass(frozen=True)
class EveryOther(Method):
    """Keeps every `step`-th token; needs no importance, so these tests do not hang on any paper."""

    step: int = 2
    layers: tuple[int, ...] = ()
    own_attention: bool = False
    text: bool = False
    needs_importance: ClassVar[bool] = False

    def merge(self, video: VideoTokens) -> MergedTokens:
        whole = super().merge(video)
        at = slice(None, None, self.step)
        return MergedTokens(
            features=whole.features[at],
            frame=whole.frame[at],
            position=whole.position[at],
            size=whole.size[at],
            segments=whole.segments,
            stages={"every other": len(whole.frame[at])},
            streams=None if whole.streams is None else whole.streams[at],
        )

    def inner(self, num_layers: int) -> tuple[Any, ...]:
        stage = DropByText if self.text else DropHalf
        return tuple(stage(layer, self.own_attention) for layer in self.layers)


@dataclass(frozen=True)
class DropHalf:
    """Keeps the more attended half, and marks it so that forgetting the new features would be seen."""

    layer: int
    own_attention: bool = False

    def keep(self, visual: int) -> int:
        return visual - visual // 2

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        kept = attention.topk(self.keep(len(hidden))).indices.sort().values
        return kept, hidden[kept] * 1.25


@dataclass(frozen=True)
class DropByText(DropHalf):
    """The same, ranked by attention and likeness of every token of the text, marked by what the text says."""

    needs_text: ClassVar[bool] = True

    def __call__(self, hidden: Tensor, attention: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        assert attention.shape == (len(text), len(hidden))
        seen = attention.float().mean(0) / attention.float().mean()
        alike = torch.nn.functional.cosine_similarity(text.float().mean(0), hidden.float(), dim=-1)
        kept = (seen + alike).topk(self.keep(len(hidden))).indices.sort().values
        weight = attention.sum(0)[kept, None].to(hidden.dtype)
        return kept, hidden[kept] * (1 + weight) + 0.1 * text.mean(0)
