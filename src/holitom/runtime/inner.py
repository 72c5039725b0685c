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
        videos: for each row `[V]` int64: which of the row's videos each of them is of; -1: a separator.
        guarded: for each row, how many videos a ranking might leave nothing of; see `Assignment.guarded`.
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
    videos: list[Tensor]
    guarded: list[int]
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
        self.videos = [own.index_select(0, chosen) for own, chosen in zip(self.videos, kept, strict=True)]
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
        if needs_text(stage):
            count = self.questions[row]
            end = layout.starts[row] + layout.lengths[row] - self.query_offset
            text = ragged[end - count : end]
            kept, merged = cast(TextAwareStage, stage)(hidden, attention[:, -count:].T, text)
        else:
            kept, merged = cast(InnerStage, stage)(hidden, attention[:, -1])
        return self._guarded(row, hidden, attention[:, -1], kept, merged)

    def _guarded(
        self, row: int, hidden: Tensor, attention: Tensor, kept: Tensor, merged: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a stage has kept of a row, at least one token of each video among it.

        All videos and separators of a row are ranked together, so one video could lose all its tokens: then
        its most attended one takes the place of the least attended token that its own video can spare.

        Args:
            row: of the batch.
            hidden: `[V, D]`: what the stage was given.
            attention: `[V]`: of the query that asks.
            kept: `[K]`: what the stage returns.
            merged: `[K, D]`: likewise.
        """
        count = min(self.guarded[row], len(hidden))
        if not count:
            return kept, merged
        video = self.videos[row]
        stays = torch.zeros_like(video, dtype=torch.bool).index_fill(0, kept, True)
        order = marked_first(by_attention(attention), stays)
        order = marked_first(order, first_of_each(order, video, count))
        chosen = order[: max(len(kept), count)].sort().values
        return chosen, hidden.index_copy(0, kept, merged.to(hidden.dtype)).index_select(0, chosen)


def by_attention(attention: Tensor) -> Tensor:
    """Token indices `[V]` int64 by falling `attention` `[V]`, of equals the first; NaN is last."""
    return attention.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)


def marked_first(order: Tensor, marked: Tensor) -> Tensor:
    """`order` with the marked tokens before the others; each in the order it had.

    Args:
        order: `[V]` int64: token indices.
        marked: `[V]` bool, by token.
    """
    return order.index_select(0, marked.index_select(0, order).int().argsort(descending=True, stable=True))


def first_of_each(order: Tensor, video: Tensor, count: int) -> Tensor:
    """The tokens that come first in `order` of each of the first `count` videos.

    Args:
        order: `[V]` int64: token indices.
        video: `[V]` int64: the video that each token is of; -1: none.
        count: of videos.

    Returns:
        `[V]` bool, by token.
    """
    total, device = len(order), order.device
    group = video.index_select(0, order)
    group = torch.where((group < 0) | (group >= count), count, group)
    rank = torch.arange(total, device=device)
    best = torch.full((count + 1,), total, device=device).scatter_reduce(0, group, rank, "amin")
    none = torch.full((1,), total, device=device)  # where a video has no token here
    at = torch.cat([order, none]).index_select(0, best[:count])
    found = torch.zeros(total + 1, dtype=torch.bool, device=device)
    return found.index_fill(0, at, True)[:total]
