"""Drift: differences of features, kept tokens and answers between reuse and the stock vision tower."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from holitom.ask import Answer, ask
from holitom.bench.shared import encoder_arguments
from holitom.methods.base import Combined, Method
from holitom.models import adapter_for
from holitom.runtime.report import mark, seconds_between
from holitom.tower import Reuse, ReusedTower, ReuseReport


@dataclass(frozen=True)
class Cosines:
    """Cosine similarity of visual tokens under reuse to the stock tower's.

    Attributes:
        mean: mean over all tokens.
        first_percentile: similarity below which one token in a hundred is.
        lowest: similarity of the least similar token.
    """

    mean: float
    first_percentile: float
    lowest: float

    @classmethod
    def of(cls, each: Tensor) -> Cosines:
        """Summarise the similarity of each token, `[n]`."""
        ranked = each.float().sort().values
        return cls(float(ranked.mean()), float(ranked[(len(ranked) - 1) // 100]), float(ranked[0]))


@dataclass(frozen=True)
class Drift:
    """One question about one video, answered over the stock tower and over the tower with reuse.

    Attributes:
        cosines: similarity of the visual tokens, with separators and DeepStack's features.
        kept_overlap: share of the tokens kept over the stock tower that are kept with reuse too; None where
            no token is dropped.
        stock: the answer over the stock tower.
        reused: the answer with reuse.
        report: report of reuse.
        seconds: seconds of the stock encoder, and of the encoder with reuse, planning included.
    """

    cosines: Cosines
    kept_overlap: float | None
    stock: Answer
    reused: Answer
    report: ReuseReport
    seconds: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """The object that `holitom drift --json` prints."""
        return {
            "computed_share": self.report.computed_share,
            "references": [list(frames) for frames in self.report.references],
            "cosine": vars(self.cosines),
            "kept_overlap": self.kept_overlap,
            "answers": {"stock": self.stock.text, "reuse": self.reused.text},
            "same_answer": self.stock.text == self.reused.text,
            "encoder_seconds": {"stock": self.seconds[0], "reuse": self.seconds[1]},
        }


def drift(
    model: Any, processor: Any, inputs: Any, method: Method, reuse: Reuse, max_new_tokens: int = 64
) -> Drift:
    """Answer a prompt over the stock tower and over the tower with reuse, and compare.

    Args:
        model: a model without an attached method.
        processor: the model's processor.
        inputs: inputs of one prompt with one video, from `holitom.ask.prompt`.
        method: method that merges in both runs; its own `reuse` does not count.
        reuse: settings of reuse.
        max_new_tokens: longest answer, in tokens.

    Raises:
        UnsupportedModelError: the model, or its tower, is not supported.
    """
    inputs = inputs.to(model.device, model.dtype)
    adapter = adapter_for(model)
    arguments = encoder_arguments(adapter, inputs)
    encode = getattr(adapter.trunk, adapter.encoder)
    tower = ReusedTower(adapter)
    try:
        with torch.inference_mode():
            encode(**arguments, return_dict=True)  # the first run is slower: it allocates memory
            began = mark(model.device)
            stock = encode(**arguments, return_dict=True)
            stock_seconds = seconds_between(began, mark(model.device))
            began = mark(model.device)
            with tower.call(reuse, arguments, inputs["input_ids"]) as report:
                reused = encode(**arguments, return_dict=True)
            reused_seconds = seconds_between(began, mark(model.device))
    finally:
        tower.detach()
    answers = [
        ask(model, processor, inputs, _reusing(method, wanted), max_new_tokens) for wanted in (False, reuse)
    ]
    return Drift(
        cosines=Cosines.of(similarity(visual_tokens(stock), visual_tokens(reused))),
        kept_overlap=_overlap(*answers),
        stock=answers[0],
        reused=answers[1],
        report=report,
        seconds=(stock_seconds, reused_seconds),
    )


def visual_tokens(output: Any) -> Tensor:
    """All features that an encoder returns, `[n, D]`, with DeepStack's features side by side."""
    streams = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
    flat = [
        stream.flatten(0, -2) if isinstance(stream, Tensor) else torch.cat([x.flatten(0, -2) for x in stream])
        for stream in streams
    ]
    return torch.cat(flat, dim=-1)


def similarity(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarity of two tensors `[..., D]` along their last axis, `[...]` float32."""
    return torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=-1)


def overlap(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Share of the places of `one` that are in `other` too; each is a pair of frames and positions `[n]`."""
    first, second = (set(zip(*(x.tolist() for x in places), strict=True)) for places in (one, other))
    return len(first & second) / len(first)


def _reusing(method: Method, reuse: Reuse | bool) -> Method:
    """`method` with another setting of reuse."""
    if isinstance(method, Combined):
        return replace(method, outer=_reusing(method.outer, reuse))
    return replace(method, reuse=reuse)


def _overlap(stock: Answer, reused: Answer) -> float | None:
    (one,), (other,) = stock.report.videos, reused.report.videos
    if one.merged == one.tokens:
        return None
    return overlap((one.frame, one.position), (other.frame, other.position))
