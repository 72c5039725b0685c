"""Inner stages: each row's video tokens are ranked by the attention of its question, and reduced."""

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
        stages: the stages by the layer before which each acts.
        ranked_by: for each of these layers, the layer whose attention ranks: itself or one before it.
        query_offset: see `Prompt`.
        questions: see `Prompt`.
        numbers: for each row `[V]` int64: number of each of its video tokens among the sent tokens of all
            videos.
        videos: `[S]` int64: the video, counted in its row, that each sent token of all videos is of; -1 for a
            separator.
        guarded: for each row, number of videos that a ranking could drop completely; see
            `Assignment.guarded`.
        copies: number of times that `generate` repeats each row.
        report: report that gets the survivors; None where the videos are in an earlier report.
        attention: `[B, width, Q]`: attention that each token gets from the row's last `asking` tokens, in the
            latest layer that ranks.
        spans: start and end of each stage.
    """

    stages: Mapping[int, AnyStage]
    ranked_by: Mapping[int, int]
    query_offset: int
    questions: list[int]
    numbers: list[Tensor]
    videos: Tensor
    guarded: list[int]
    copies: int
    report: Report | None
    attention: Tensor | None = None
    spans: list[tuple[Mark, Mark]] = field(default_factory=list)

    @property
    def asking(self) -> int:
        """Number of queries in each row: 1, or the longest text of any row if a stage reads the text."""
        return max(self.questions) if any(map(needs_text, self.stages.values())) else 1

    def read(self, query: Tensor, key: Tensor, scale: float, visible: Tensor | None, width: int) -> Tensor:
        """Compute the attention `[B, width, Q]` of the queries to this forward's tokens.

        Args:
            query: `[B, heads, Q, d]`: queries of the `Q` columns before the last `query_offset` columns.
            key: `[B, kv_heads, S, d]`: keys of past and present columns.
            scale: factor on the logits.
            visible: `[B, S]` bool, False at padding; None: all columns are tokens.
            width: number of columns of this forward.
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
            layout: layout of the tokens.
            hidden: `[B, width, D]`: hidden states that enter the layer.
            rotary: cosines and sines of its columns, `[B, width, d]` each.
            attention: `[B, width, Q]`: attention that ranks.

        Returns:
            The layout of the tokens left, their hidden states, their rotary parts, and the ragged indices
            `[n]` of the tokens left.
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
        self.attention = left.pad(scores.index_select(0, order))  # the next stage may rank by it too
        self.numbers = [own.index_select(0, chosen) for own, chosen in zip(self.numbers, kept, strict=True)]
        hidden = left.pad(ragged.index_select(0, order))
        self.spans.append((began, mark(hidden.device)))
        if self.report is not None:
            numbers = torch.cat(self.numbers[:: self.copies])
            for video in self.report.videos:
                video.inner[layer] = numbers
        return left, hidden, turned, order

    def _reduced(
        self, stage: AnyStage, layout: Layout, row: int, ragged: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply `stage` to a row's video tokens.

        Args:
            stage: one of `stages`.
            layout: layout of the tokens.
            row: number of a row with video tokens.
            ragged: `[n, D]`: hidden states that enter the layer.
            scores: `[n, Q]`: attention that ranks.

        Returns:
            Indices `[K]` of the video tokens that stay, ascending, and their hidden states `[K, D]`.
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
        """Exchange kept tokens so that each video of a row keeps at least one.

        All videos and separators of a row are ranked together, so one video could lose all its tokens. Then
        its most attended token replaces the least attended token of a video that keeps others.

        Args:
            row: number of the row.
            hidden: `[V, D]`: hidden states that the stage was given.
            attention: `[V]`: attention of the question's last token.
            kept: `[K]`: indices that the stage returned.
            merged: `[K, D]`: hidden states that the stage returned.

        Returns:
            As `_reduced`.
        """
        count = min(self.guarded[row], len(hidden))
        if not count:
            return kept, merged
        video = self.videos.index_select(0, self.numbers[row])
        stays = torch.zeros_like(video, dtype=torch.bool).index_fill(0, kept, True)
        order = marked_first(by_attention(attention), stays)
        order = marked_first(order, first_of_each(order, video, count))
        chosen = order[: max(len(kept), count)].sort().values
        return chosen, hidden.index_copy(0, kept, merged.to(hidden.dtype)).index_select(0, chosen)


def by_attention(attention: Tensor) -> Tensor:
    """Sort token indices `[V]` int64 by falling `attention` `[V]`; ties go to the lowest, NaN is last."""
    return attention.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)


def marked_first(order: Tensor, marked: Tensor) -> Tensor:
    """Move the marked tokens to the front of `order`; both parts keep their order.

    Args:
        order: `[V]` int64: token indices.
        marked: `[V]` bool, by token.
    """
    return order.index_select(0, marked.index_select(0, order).int().argsort(descending=True, stable=True))


def first_of_each(order: Tensor, video: Tensor, count: int) -> Tensor:
    """Mark the token of each of the first `count` videos that is first in `order`.

    Args:
        order: `[V]` int64: token indices.
        video: `[V]` int64: the video that each token is of; -1: none.
        count: number of videos.

    Returns:
        `[V]` bool, by token.
    """
    total, device = len(order), order.device
    group = video.index_select(0, order)
    group = torch.where((group < 0) | (group >= count), count, group)
    rank = torch.arange(total, device=device)
    best = torch.full((count + 1,), total, device=device).scatter_reduce(0, group, rank, "amin")
    none = torch.full((1,), total, device=device)  # index for a video without tokens here
    at = torch.cat([order, none]).index_select(0, best[:count])
    found = torch.zeros(total + 1, dtype=torch.bool, device=device)
    return found.index_fill(0, at, True)[:total]
