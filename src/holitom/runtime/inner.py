"""Merging inside the language model: video tokens of each row are ranked by its question and reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from holitom.contract import AnyStage, InnerStage, TextAwareStage, needs_text
from holitom.ops.attention import query_attention
from holitom.runtime.layout import Layout
from holitom.runtime.precision import without_autocast
from holitom.runtime.report import Mark, Report, mark


@dataclass
class InnerMerge:
    """The inner stages of one forward.

    Attributes:
        stages: by the layer before which each acts.
        ranked_by: for each of these layers, the one whose attention ranks: itself or one before it.
        query_offset: see `Plan`.
        questions: likewise.
        numbers: for each row `[V]` int64: index of each of its video tokens among all sent tokens of the
            batch; -1 in rows that `generate` repeats.
        report: where survivors are reported; None where the videos were reported before.
        attention: `[B, width, Q]`: what the last `asking` tokens of a row, in order, gave each token in the
            latest layer that ranks.
        spans: when each stage began and ended.
    """

    stages: Mapping[int, AnyStage]
    ranked_by: Mapping[int, int]
    query_offset: int
    questions: list[int]
    numbers: list[Tensor]
    report: Report | None
    attention: Tensor | None = None
    spans: list[tuple[Mark, Mark]] = field(default_factory=list)

    @property
    def asking(self) -> int:
        """How many queries of each row rank: the last token of its question, or all text of the longest."""
        return max(self.questions) if any(map(needs_text, self.stages.values())) else 1

    def read(self, query: Tensor, key: Tensor, scale: float, visible: Tensor | None, width: int) -> Tensor:
        """The queries' attention to this forward's tokens `[B, width, Q]`, among all keys that they may see.

        Args:
            query: `[B, heads, Q, d]`: of the `Q` columns before the last `query_offset`.
            key: `[B, kv_heads, S, d]`: keys of past and present columns.
            scale: factor on the logits.
            visible: `[B, S]` bool; None: all are tokens.
            width: columns of this forward.
        """
        queries, columns, device = query.shape[2], key.shape[2], key.device
        visible = None if visible is None else visible[:, None]
        if self.query_offset or queries > 1:
            last = columns - self.query_offset - queries + torch.arange(queries, device=device)
            before = torch.arange(columns, device=device) <= last[:, None]
            visible = before[None] if visible is None else visible & before
        return query_attention(query, key, scale, visible)[:, :, -width:].transpose(1, 2)

    def reduce(
        self, layer: int, layout: Layout, hidden: Tensor, rotary: tuple[Tensor, ...], attention: Tensor
    ) -> tuple[Layout, Tensor, tuple[Tensor, ...], Tensor]:
        """Reduce each row's video tokens before `layer`.

        Args:
            layer: a key of `stages`.
            layout: where the tokens are.
            hidden: `[B, width, D]`: what enters the layer.
            rotary: `[B, width, d]` each: cosines and sines of its columns.
            attention: `[B, width, Q]`: what ranks.

        Returns:
            The layout of what is left, its hidden states and rotary parts, and the ragged indices `[n]` that
            remain, for what else belongs to the tokens.
        """
        began = mark(hidden.device)
        stage = self.stages[layer]
        ragged, scores = layout.unpad(hidden), layout.unpad(attention)
        kept, features = [], []
        for row, visual in enumerate(layout.visual):
            if len(visual):
                with without_autocast(ragged.device):
                    chosen, merged = self._reduced(stage, layout, row, ragged, scores)
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

    def _reduced(
        self, stage: AnyStage, layout: Layout, row: int, ragged: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `stage` makes of a row's video tokens.

        Args:
            stage: of `stages`.
            layout: where the tokens are.
            row: which has video tokens.
            ragged: `[n, D]`: what enters the layer.
            scores: `[n, Q]`: what ranks.
        """
        visual = layout.visual[row]
        hidden, attention = ragged.index_select(0, visual), scores.index_select(0, visual)
        if not needs_text(stage):
            return cast(InnerStage, stage)(hidden, attention[:, -1])
        count = self.questions[row]
        end = layout.starts[row] + layout.lengths[row] - self.query_offset
        return cast(TextAwareStage, stage)(hidden, attention[:, -count:].T, ragged[end - count : end])
