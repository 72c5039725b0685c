"""Plan a forward of the language model before its first layer runs.

A plan is made from tensors alone, without a model: `prefill` plans a forward that brings videos, `proceed`
one that goes on over a cache which holds merged tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holitom.runtime import refusals
from holitom.runtime.cache import CacheRecord
from holitom.runtime.layout import Layout, Placement, merged_layout, plain_layout
from holitom.runtime.levels import Levels
from holitom.runtime.positions import (
    Numbering,
    after,
    callers_positions,
    kept_positions,
    next_padded_positions,
    next_positions,
    unmerged_positions,
)
from holitom.runtime.prompt import Prompt, last_real


@dataclass(frozen=True)
class Columns:
    """The columns that the caller sends into the language model in one forward.

    Attributes:
        embeds: `[B, L, D]`: embeddings.
        mask: `[B, seen + L]`, 1 at tokens; None: all are tokens.
        positions: the caller's position ids, see `callers_positions`; None: consecutive ones.
        seen: columns that the caller has sent before, in the cache.
        record: the cache's record; None where it holds no merged tokens.
        streams: `[B, L, D]` each: what is added to the output of the first layers, one entry a layer.
    """

    embeds: Tensor
    mask: Tensor | None = None
    positions: Tensor | None = None
    seen: int = 0
    record: CacheRecord | None = None
    streams: Sequence[Tensor] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """`(B, L)`."""
        return self.embeds.shape[0], self.embeds.shape[1]

    def levels(self, starts: Sequence[int]) -> Levels:
        """Return the levels before this forward, split at the layers `starts`."""
        if self.record is not None:
            return self.record.levels.split(starts)
        columns = self.shape[1]
        past = None if self.mask is None or self.mask.shape[1] == columns else self.mask[:, :-columns].bool()
        return Levels.one(self.seen, past).split(starts)


@dataclass(frozen=True)
class Plan:
    """The input of one forward of the language model, and the record of its cache afterwards.

    Attributes:
        embeds: `[B, width, D]`: hidden states that enter the first layer.
        mask: `[B, held + width]` bool of the first level; None: all are tokens.
        positions: `[B, width]` or `[axes, B, width]` int64; None: the caller's.
        record: the cache's record after the forward. Where stages merge inside the language model, its levels
            after the first do not hold this forward's columns yet.
        layout: layout of the tokens left; None: they stand in the caller's columns.
        last_real: each row's last column that holds a token (with a layout only).
        columns: the caller's columns `L`.
        streams: `[n, D]` ragged each: what is added to the output of the first layers.
        gaps: whether position ids have gaps although the tokens of a row are one sequence.
    """

    embeds: Tensor
    mask: Tensor | None
    positions: Tensor | None
    record: CacheRecord
    columns: int
    layout: Layout | None = None
    last_real: list[int] = field(default_factory=list)
    streams: Sequence[Tensor] = ()
    gaps: bool = False

    @property
    def width(self) -> int:
        """Number of columns of the first layer."""
        return int(self.embeds.shape[1])

    @property
    def seen(self) -> int:
        """Number of the caller's columns in the cache before the forward."""
        return self.record.seen - self.columns


def prefill(
    columns: Columns,
    prompt: Prompt,
    placements: list[Placement],
    numbering: Numbering,
    inner: Sequence[int] = (),
) -> Plan:
    """Plan a forward that brings videos.

    Args:
        columns: the caller's columns.
        prompt: the same columns on the host.
        placements: the tokens that each video sends, and their columns.
        numbering: how the tokens that are left get position ids.
        inner: layers before which video tokens merge in this forward.

    Raises:
        UnsupportedUsageError: position ids that cannot be kept, or a mask that hides placeholders.
    """
    refusals.check_hidden(prompt.holders, prompt.real)
    layout, wide = merged_layout(
        torch.cat([columns.embeds, *columns.streams], dim=-1), prompt.text, placements
    )
    ragged, *streams = torch.split(wide, columns.embeds.shape[-1], dim=-1)
    gaps = numbering == "unmerged"
    if numbering == "columns":
        given = callers_positions(columns.positions, columns.embeds, columns.seen)
        positions, numbered = kept_positions(given, prompt, layout, columns.record)
        following = after(positions)
    else:
        positions, following = _one_axis(columns, prompt, layout, gaps)
        numbered = None
    record = _record(columns, prompt, layout, following, numbered, inner)
    return Plan(
        embeds=layout.pad(ragged),
        mask=record.levels.masks[0],
        positions=positions,
        record=record,
        columns=columns.shape[1],
        layout=layout.sparing(prompt.video_asks) if inner else layout,
        last_real=prompt.last_real,
        streams=streams,
        gaps=gaps,
    )


def _one_axis(columns: Columns, prompt: Prompt, layout: Layout, gaps: bool) -> tuple[Tensor, Tensor]:
    """Return position ids `[B, width]` on one axis and the next ids `[B]`; with `gaps` the unmerged ones."""
    record = columns.record
    if record is None:
        given = columns.positions is not None
        base = prompt.first_positions(columns.seen, columns.embeds.device, given)
    else:
        base = record.position
    if gaps:
        return unmerged_positions(base, prompt, layout)
    positions = layout.numbered(base)
    return positions, after(positions)


def _record(
    columns: Columns,
    prompt: Prompt,
    layout: Layout,
    following: Tensor,
    numbered: Tensor | None,
    inner: Sequence[int],
) -> CacheRecord:
    """Make the cache's record after a prefill.

    Levels after the first grow when their first layer is entered and the tokens left are known.
    """
    levels = columns.levels((0, *inner))
    mask, width = layout.mask, layout.width
    return CacheRecord(
        seen=columns.seen + columns.shape[1],
        position=following,
        numbered=numbered,
        levels=levels.grown(0, mask, width) if inner else levels.all_grown(mask, width),
        tail=min(prompt.text_tail, prompt.query_offset) if inner else prompt.text_tail,
    )


def proceed(columns: Columns, numbering: Numbering) -> Plan:
    """Plan a forward without videos over a cache that holds merged tokens.

    Args:
        columns: the caller's columns, with a record.
        numbering: how the tokens get position ids.
    """
    record = columns.record
    assert record is not None
    embeds, (rows, width) = columns.embeds, columns.shape
    real = None if columns.mask is None else columns.mask[:, -width:].bool()
    given = callers_positions(columns.positions, embeds, record.seen) if numbering == "columns" else None
    if real is not None and width > 1 and not bool(real.all()):
        return _proceed_padded(columns, record, real, given)
    positions = next_positions(record, given, width)
    levels = record.levels.all_grown(real if rows > 1 else None, width)
    return Plan(
        embeds=embeds,
        mask=levels.masks[0],
        positions=positions,
        record=CacheRecord(
            seen=record.seen + width,
            position=after(positions),
            numbered=record.numbered,
            levels=levels,
            tail=record.tail + width,
        ),
        columns=width,
    )


def _proceed_padded(columns: Columns, record: CacheRecord, real: Tensor, given: Tensor | None) -> Plan:
    """Plan as `proceed` where some of the new columns are padding: the rows are packed anew."""
    embeds, width = columns.embeds, columns.shape[1]
    host = real.cpu()
    layout = plain_layout(host, embeds.device)
    positions = next_padded_positions(record, given, layout)
    streams = [stream.flatten(0, 1).index_select(0, layout.home) for stream in columns.streams]
    levels = record.levels.all_grown(layout.mask, layout.width)
    numbered = record.numbered
    return Plan(
        embeds=layout.pad(embeds.flatten(0, 1).index_select(0, layout.home)),
        mask=levels.masks[0],
        positions=positions,
        record=CacheRecord(
            seen=record.seen + width,
            position=after(positions),
            numbered=None if numbered is None else numbered | ~real[:, -1].to(numbered.device),
            levels=levels,
            tail=0,
        ),
        columns=width,
        layout=layout,
        last_real=last_real(host),
        streams=streams,
    )
