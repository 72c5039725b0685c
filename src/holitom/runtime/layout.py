"""Layouts of a batch whose rows have lost different numbers of tokens.

Two rows with a video of four placeholders each (v), of which the first row sends two and the second one:

    the caller's columns            ragged sequence         padded batch (width 5)
    row 0   t v v v v t t           t v v t t               t v v t t
    row 1   - - v v v v t           v t                     - - - v t

Inside the language model a batch is always left-padded: every row ends in the last column, whichever side the
caller padded. `home` maps a ragged token to the caller's column:

    home                            0 1 2 5 6  10 13            (row * 7 + column; `-` is padding)

`merged_layout` sorts tokens by key: the column of a text token, and the first column of the run of
placeholders that a sent token's slot is in. A row of two frames that sends tokens at slots 1, 0 and 3:

    columns        0 1 2 3 4 5 6        slot   1 0 3
                   t v v t v v t        key    1 1 4     the sort gives   t v1 v0 t v3 t
    (run begins)     1 1   4 4          home   2 1 5     lengths [6]      0 2  1  3 5  6

Index arithmetic runs on the device from lengths that the host knows, without device synchronisations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Rows of different lengths, as one ragged sequence (row after row) and as a left-padded batch.

    Attributes:
        lengths: number of tokens of each row.
        home: `[sum(lengths)]` int64: index of each ragged token in the caller's `[B * L]` columns.
        visual: for each row, `[V]` int64 ascending: indices of its video tokens in the ragged sequence.
    """

    lengths: list[int]
    home: Tensor
    visual: list[Tensor]

    @property
    def width(self) -> int:
        return max(self.lengths)

    @property
    def starts(self) -> list[int]:
        """Index of each row's first token in the ragged sequence."""
        return [0, *accumulate(self.lengths)][:-1]

    @property
    def padded(self) -> bool:
        """Whether any row is shorter than the longest."""
        return min(self.lengths) < self.width

    @cached_property
    def mask(self) -> Tensor | None:
        """Whether each column of the padded batch is a token, `[B, width]` bool; None where no row is
        padded."""
        if not self.padded:
            return None
        none = torch.zeros(len(self.lengths) * self.width, dtype=torch.bool, device=self.home.device)
        return none.index_fill(0, self._places, True).view(len(self.lengths), self.width)

    @cached_property
    def _places(self) -> Tensor:
        """Index `[sum(lengths)]` int64 of each ragged token in the flattened padded batch."""
        device, width = self.home.device, self.width
        ends = [(row + 1) * width for row in range(len(self.lengths))]
        rows = [torch.arange(e - n, e, device=device) for e, n in zip(ends, self.lengths, strict=True)]
        return torch.cat(rows)

    def to(self, device: torch.device) -> Layout:
        """Move the indices to `device`; layers of one model may be on several devices."""
        if self.home.device == device:
            return self
        return Layout(self.lengths, self.home.to(device), [visual.to(device) for visual in self.visual])

    def sparing(self, rows: list[bool]) -> Layout:
        """Count the last video token of the marked rows as text.

        Rows that end in a video token are marked: its attention ranks the others, so it must stay.
        """
        visual = [own[:-1] if ends else own for own, ends in zip(self.visual, rows, strict=True)]
        return replace(self, visual=visual)

    def pad(self, ragged: Tensor) -> Tensor:
        """Pad a ragged tensor `[sum(lengths), ...]` with zeros on the left to a batch `[B, width, ...]`."""
        rows = len(self.lengths)
        if not self.padded:
            return ragged.view(rows, self.width, *ragged.shape[1:])
        batch = ragged.new_zeros(rows * self.width, *ragged.shape[1:])
        return batch.index_copy(0, self._places, ragged).view(rows, self.width, *ragged.shape[1:])

    def unpad(self, batch: Tensor) -> Tensor:
        """Remove the padding of a batch `[B, width, ...]`: the inverse of `pad`."""
        flat = batch.flatten(0, 1)
        return flat.index_select(0, self._places) if self.padded else flat

    def kept(self, positions: Tensor) -> Tensor:
        """Select from `positions` `[axes, B, L]` those of the tokens left, `[axes, B, width]`; 0 at
        padding."""
        ragged = positions.flatten(1).index_select(1, self.home).T
        return self.pad(ragged).permute(2, 0, 1)

    def numbered(self, base: Tensor) -> Tensor:
        """Number each row's tokens from `base` `[B]`: position ids `[B, width]`, 0 at padding."""
        if self.mask is None:
            return base[:, None] + torch.arange(self.width, device=base.device)
        return (base[:, None] + self.mask.cumsum(1) - 1) * self.mask

    def restore(self, batch: Tensor, columns: int, last_real: list[int]) -> Tensor:
        """Return hidden states to the caller's columns.

        Args:
            batch: `[B, width, D]`: hidden states.
            columns: the caller's width `L`.
            last_real: each row's last column that holds a token.

        Returns:
            `[B, L, D]`: zeros where a token merged away and at padding on the left. Padding on the right
            repeats the row's last token, so that the last column of every row predicts the next token.
        """
        rows = len(self.lengths)
        out = batch.new_zeros(rows * columns, batch.shape[-1]).index_copy(0, self.home, self.unpad(batch))
        out = out.view(rows, columns, -1)
        for row, last in enumerate(last_real):
            if last < columns - 1:
                out[row, last + 1 :] = batch[row, -1]
        return out

    def keep(self, kept: list[Tensor]) -> tuple[Layout, Tensor]:
        """Drop video tokens.

        Args:
            kept: for each row, ascending indices into its `visual` of the tokens that stay.

        Returns:
            The new layout, and the ragged indices `[n]` of this layout that stay.
        """
        stays = torch.ones(self.home.shape[0], dtype=torch.bool, device=self.home.device)
        remaining = [visual.index_select(0, index) for visual, index in zip(self.visual, kept, strict=True)]
        stays.index_fill_(0, torch.cat(self.visual), False).index_fill_(0, torch.cat(remaining), True)
        lengths = [
            length - len(visual) + len(index)
            for length, visual, index in zip(self.lengths, self.visual, kept, strict=True)
        ]
        order = torch.argsort((~stays).to(torch.uint8), stable=True)[: sum(lengths)]
        renumbered = stays.cumsum(0) - 1
        layout = Layout(
            lengths=lengths,
            home=self.home.index_select(0, order),
            visual=[renumbered.index_select(0, index) for index in remaining],
        )
        return layout, order


def plain_layout(real: Tensor, device: torch.device) -> Layout:
    """Make the layout of a batch without videos.

    Args:
        real: `[B, L]` bool on the host: whether a column is a token.
        device: device of the indices.
    """
    lengths = real.sum(dim=1).tolist()
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    home = real.flatten().nonzero().squeeze(1).to(device)
    return Layout(lengths=lengths, home=home, visual=[nothing] * real.shape[0])


@dataclass(frozen=True)
class Placement:
    """One video in one row: the columns of its placeholders, and the tokens that are sent at them.

    Attributes:
        row: the row of the batch.
        columns: `[slots]` int64 on the host: the columns of its placeholders, ascending.
        slot: `[S]` int64 on the device: the placeholder that each sent token stands at.
        features: `[S, D + E]` on the device: features of the sent tokens, with their streams.
    """

    row: int
    columns: Tensor
    slot: Tensor
    features: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether one token is sent for every placeholder, in order."""
        slots = len(self.columns)
        return len(self.slot) == slots and torch.equal(
            self.slot, torch.arange(slots, device=self.slot.device)
        )


def placed(embeds: Tensor, placements: list[Placement]) -> Tensor:
    """Write the features of whole placements into their columns of `embeds` `[B, L, D]`."""
    flat = embeds.flatten(0, 1)
    for placement in placements:
        at = (placement.columns + placement.row * embeds.shape[1]).to(flat.device)
        flat = flat.index_copy(0, at, placement.features[:, : flat.shape[1]].to(flat))
    return flat.view_as(embeds)


def merged_layout(embeds: Tensor, text: Tensor, placements: list[Placement]) -> tuple[Layout, Tensor]:
    """Replace placeholders by the tokens that merged videos send.

    A sent token goes to the run of placeholders that its slot is in, and tokens of one run keep the order in
    which they are sent; so each frame of a video with text between its frames keeps its own tokens. Both
    follow from the stable sort by key that is drawn at the top of this file.

    Args:
        embeds: `[B, L, D + E]`: embeddings in the caller's columns, with streams.
        text: `[B, L]` bool on the host: whether a column is a token but no video placeholder.
        placements: every video of every row.

    Returns:
        The layout, and its ragged embeddings `[sum(lengths), D + E]`.
    """
    rows, columns = text.shape
    device = embeds.device
    text_home = text.flatten().nonzero().squeeze(1)
    indices = [text_home]
    for placement in placements:
        first = torch.ones_like(placement.columns, dtype=torch.bool)
        first[1:] = placement.columns.diff() != 1
        runs = placement.columns[first][first.cumsum(0) - 1]
        indices += [runs + placement.row * columns, placement.columns + placement.row * columns]
    text_home, *where = send(indices, device)

    keys, homes, features = [text_home], [text_home], [embeds.flatten(0, 1).index_select(0, text_home)]
    lengths = text.sum(dim=1).tolist()
    sent: list[list[Tensor]] = [[] for _ in range(rows)]
    total = text_home.shape[0]
    for placement, runs, own in zip(placements, where[::2], where[1::2], strict=True):
        slot = placement.slot.to(device)
        count = slot.shape[0]
        keys.append(runs.index_select(0, slot))
        homes.append(own.index_select(0, slot))
        features.append(placement.features.to(device, embeds.dtype))
        sent[placement.row].append(torch.arange(total, total + count, device=device))
        lengths[placement.row] += count
        total += count
    order = torch.argsort(torch.cat(keys), stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(total, device=device))
    nothing = order[:0]
    layout = Layout(
        lengths=lengths,
        home=torch.cat(homes).index_select(0, order),
        visual=[rank.index_select(0, torch.cat(own)).sort().values if own else nothing for own in sent],
    )
    return layout, torch.cat(features).index_select(0, order)


def send(values: list[Tensor], device: torch.device) -> list[Tensor]:
    """Copy host tensors `[n]` of one dtype to `device` in one copy."""
    sent = torch.cat(values).to(device, non_blocking=True)
    return list(torch.split(sent, [len(each) for each in values]))
