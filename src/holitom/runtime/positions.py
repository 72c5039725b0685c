"""Position ids of the tokens that are left: numbered anew, or kept as the caller's columns have them.

Rows of a model with one position axis are numbered without gaps, or as they would be unmerged where the
method asks for own positions. On models with several axes (time, height, width) a token's position says where
in the video it was, so what is left keeps the position ids that the unmerged model gives its column, and so
does all that follows. One thing is mended: where a row is padded on the right, `generate` would let its
answer begin at position 1 again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holitom.runtime.cache import CacheRecord
from holitom.runtime.layout import Layout
from holitom.runtime.prompt import Prompt


def callers_positions(ids: Tensor | None, embeds: Tensor, seen: int) -> Tensor:
    """The position ids `[axes, B, L]` that the language model was about to use.

    Args:
        ids: its argument: `[B or 1, L]`, `[axes, B or 1, L]`, or, as `generate` passes them, with a row for
            packed sequences before the axes, which is left out; None: consecutive ones.
        embeds: `[B, L, D]`: its input.
        seen: the caller's columns in the cache.
    """
    rows, columns = embeds.shape[:2]
    if ids is None:
        ids = torch.arange(columns, device=embeds.device)[None] + seen
    if ids.dim() == 2:
        ids = ids[None]
    return ids[-3:].expand(-1, rows, -1).to(embeds.device)


def kept_positions(
    given: Tensor, prompt: Prompt, layout: Layout, record: CacheRecord | None
) -> tuple[Tensor, Tensor]:
    """Position ids `[axes, B, width]` of the tokens that are left of a prompt, each its column's.

    Args:
        given: the caller's, `[axes, B, L]`.
        prompt: the caller's columns.
        layout: where the tokens are now.
        record: of the cache, if it holds merged tokens.

    Returns:
        They, and which rows count on from their last token, `[B]` bool: those padded on the right.
    """
    rows = len(prompt.asks)
    restarts = torch.zeros(rows, dtype=torch.bool, device=given.device)
    for row, last in enumerate(prompt.asks):
        if last < prompt.asked - 1:
            restarts[row] = True
    behind = given.shape[-1] - prompt.asked
    if behind:  # an answer that was generated without a cache
        asks = torch.tensor(prompt.asks).to(given.device, non_blocking=True)[None, :, None]
        on = given.gather(2, asks.expand(len(given), -1, -1)) + 1 + torch.arange(behind, device=given.device)
        answer = torch.where(restarts[:, None], on, given[..., prompt.asked :])
        given = torch.cat([given[..., : prompt.asked], answer], dim=-1)
    if record is not None and record.numbered is not None:
        restarts = restarts | record.numbered
    return layout.kept(given), restarts


def unmerged_positions(base: Tensor, prompt: Prompt, layout: Layout) -> tuple[Tensor, Tensor]:
    """Position ids of a model with one axis, counted over all columns of a prompt, merged away or not.

    Args:
        base: `[B]`: of each row's first token.
        prompt: the caller's columns.
        layout: where the tokens are now.

    Returns:
        `[B, width]`, and `[B]`: the position that follows.
    """
    ends = base[:, None] + prompt.real.cumsum(1).to(base)
    return layout.kept(ends[None] - 1)[0], ends[:, -1]


def next_positions(record: CacheRecord, given: Tensor | None, columns: int) -> Tensor:
    """Position ids `[axes, B, L]` (`[B, L]` with one axis) of `columns` of text, none of them padding.

    Args:
        record: what the cache holds.
        given: the caller's, `[axes, B, L]`; None where rows are numbered anew.
        columns: `L`.
    """
    on = record.position[:, None] + torch.arange(columns, device=record.position.device)
    return _unless_given(record, on, given)


def next_padded_positions(record: CacheRecord, given: Tensor | None, layout: Layout) -> Tensor:
    """The same for text that is padded, in `layout`."""
    on = layout.numbered(record.position)
    return _unless_given(record, on, None if given is None else layout.kept(given))


def _unless_given(record: CacheRecord, on: Tensor, given: Tensor | None) -> Tensor:
    if given is None or record.numbered is None:
        return on
    return torch.where(record.numbered[:, None], on, given)


def after(positions: Tensor) -> Tensor:
    """The position `[B]` that follows each row's last column."""
    last = positions[..., -1]
    return (last if last.dim() == 1 else last.amax(0)) + 1
