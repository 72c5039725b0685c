"""Merging inside the language model: video tokens of each row are ranked by one query and reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holitom.contract import InnerStage
from holitom.ops.attention import query_attention
from holitom.runtime.layout import Layout
from holitom.runtime.report import Mark, Report, mark


@dataclass
class InnerMerge:
    """The inner stages of one forward.

    Attributes:
        stages: by the layer before which each acts.
        ranked_by: for each of these layers, the one whose attention ranks: itself or one before it.
        query_offset: see `Plan`.
        numbers: for each row `[V]` int64: index of each of its video tokens among all sent tokens of the
            batch; -1 in rows that `generate` repeats.
        report: where survivors are reported; None where the videos were reported before.
        attention: `[B, width]`: what the query gave the tokens in the latest layer that ranks.
        spans: when each stage began and ended.
    """

    stages: Mapping[int, InnerStage]
    ranked_by: Mapping[int, int]
    query_offset: int
    numbers: list[Tensor]
    report: Report | None
    attention: Tensor | None = None
    spans: list[tuple[Mark, Mark]] = field(default_factory=list)

    def read(self, query: Tensor, key: Tensor, scale: float, visible: Tensor | None, width: int) -> Tensor:
        """The query's attention to this forward's tokens `[B, width]`, among all keys that it may see.

        Args:
            query: `[B, heads, d]`.
            key: `[B, kv_heads, S, d]`: keys of past and present columns.
            scale: factor on the logits.
            visible: `[B, S]` bool; None: all are tokens.
            width: columns of this forward.
        """
        if self.query_offset:
            before = torch.arange(key.shape[2], device=key.device) < key.shape[2] - self.query_offset
            visible = before.expand(key.shape[0], -1) if visible is None else visible & before
        return query_attention(query, key, scale, visible)[:, -width:]

    def reduce(
        self, layer: int, layout: Layout, hidden: Tensor, rotary: tuple[Tensor, ...], attention: Tensor
    ) -> tuple[Layout, Tensor, tuple[Tensor, ...], Tensor]:
        """Reduce each row's video tokens before `layer`.

        Args:
            layer: a key of `stages`.
            layout: where the tokens are.
            hidden: `[B, width, D]`: what enters the layer.
            rotary: `[B, width, d]` each: cosines and sines of its columns.
            attention: `[B, width]`: what ranks.

        Returns:
            The layout of what is left, its hidden states and rotary parts, and the ragged indices `[n]` that
            remain, for what else belongs to the tokens.
        """
        began = mark(hidden.device)
        stage = self.stages[layer]
        ragged, scores = layout.unpad(hidden), layout.unpad(attention)
        kept, features = [], []
        for visual in layout.visual:
            if len(visual):
                chosen, merged = stage(ragged.index_select(0, visual), scores.index_select(0, visual))
                features.append(merged.to(ragged.dtype))
            kept.append(chosen if len(visual) else visual)
        stand = [visual.index_select(0, chosen) for visual, chosen in zip(layout.visual, kept, strict=True)]
        ragged = ragged.index_copy(0, torch.cat(stand), torch.cat(features))
        left, order = layout.keep(kept)
        turned = tuple(left.pad(layout.unpad(part).index_select(0, order)) for part in rotary)
        self.attention = left.pad(scores.index_select(0, order))  # the next stage may have no newer one
        self.numbers = [own.index_select(0, chosen) for own, chosen in zip(self.numbers, kept, strict=True)]
        hidden = left.pad(ragged.index_select(0, order))
        self.spans.append((began, mark(hidden.device)))
        if self.report is not None:
            numbers = torch.cat(self.numbers)
            for video in self.report.videos:
                video.inner[layer] = numbers
        return left, hidden, turned, order
