"""Position ids of the tokens that are left: new ones, or those of the caller's columns.

Rows of a model with one position axis get ids without gaps, or those of the unmerged prompt if the method has
`positions="own"`. In models with several axes (time, height, width) ids say where in the video a token is, so
tokens keep the ids that the unmerged model gives their columns, and so does the text behind them. One fault
of transformers is corrected: in a row padded on the right, `generate` would begin the answer at position 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from holitom.ops.host import HOST
from holitom.runtime.cache import CacheRecord
from holitom.runtime.layout import Layout
from holitom.runtime.prompt import Prompt

Numbering = Literal["columns", "unmerged", "anew"]
"""How the tokens that are left get position ids: as the caller gives them by column (models with several
axes), as in the unmerged prompt (one axis), or without gaps (one axis)."""


def callers_positions(ids: Tensor | None, embeds: Tensor, seen: int) -> Tensor:
    """Return the position ids `[axes, B, L]` that the language model would use without merging.

    Args:
        ids: its argument: `[B or 1, L]`, `[axes, B or 1, L]`, or, from `generate`, with a row for packed
            sequences before the axes, which is left out; None: consecutive ids.
        embeds: `[B, L, D]`: its input.
        seen: number of the caller's columns in the cache.
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
    """Give the tokens left of a prompt the position ids of their columns.

    Args:
        given: the caller's position ids, `[axes, B, L]`.
        prompt: the caller's columns.
        layout: the layout of the tokens left.
        record: the cache's record, if it holds merged tokens.

    Returns:
        Position ids `[axes, B, width]`, and `[B]` bool: whether a row is padded on the right, so that its
        answer continues from its last token.
    """
    rows = len(prompt.question_ends)
    restarts = torch.zeros(rows, dtype=torch.bool, device=given.device)
    for row, last in enumerate(prompt.question_ends):
        if last < prompt.asked - 1:
            restarts[row] = True
    behind = given.shape[-1] - prompt.asked
    if behind:  # `generate` without a cache passes the answer so far behind the prompt
        asks = torch.tensor(prompt.question_ends, device=HOST).to(given.device, non_blocking=True)[
            None, :, None
        ]
        on = given.gather(2, asks.expand(len(given), -1, -1)) + 1 + torch.arange(behind, device=given.device)
        answer = torch.where(restarts[:, None], on, given[..., prompt.asked :])
        given = torch.cat([given[..., : prompt.asked], answer], dim=-1)
    if record is not None and record.numbered is not None:
        restarts = restarts | record.numbered
    return layout.kept(given), restarts


def unmerged_positions(base: Tensor, prompt: Prompt, layout: Layout) -> tuple[Tensor, Tensor]:
    """Number the tokens left by their places in the unmerged prompt, for a model with one axis.

    Args:
        base: `[B]`: position id of each row's first token.
        prompt: the caller's columns.
        layout: the layout of the tokens left.

    Returns:
        Position ids `[B, width]`, and `[B]`: each row's next position id.
    """
    ends = base[:, None] + prompt.real.cumsum(1).to(base)
    return layout.kept(ends[None] - 1)[0], ends[:, -1]


def next_positions(record: CacheRecord, given: Tensor | None, columns: int) -> Tensor:
    """Return the position ids `[axes, B, L]` (one axis: `[B, L]`) of unpadded text behind cached columns.

    Args:
        record: the cache's record.
        given: the caller's position ids, `[axes, B, L]`; None where rows get new ids.
        columns: `L`.
    """
    on = record.position[:, None] + torch.arange(columns, device=record.position.device)
    return _unless_given(record, on, given)


def next_padded_positions(record: CacheRecord, given: Tensor | None, layout: Layout) -> Tensor:
    """Return the position ids of padded text in `layout`; arguments as in `next_positions`."""
    on = layout.numbered(record.position)
    return _unless_given(record, on, None if given is None else layout.kept(given))


def _unless_given(record: CacheRecord, on: Tensor, given: Tensor | None) -> Tensor:
    if given is None or record.numbered is None:
        return on
    return torch.where(record.numbered[:, None], on, given)


def after(positions: Tensor) -> Tensor:
    """Return the position id `[B]` behind each row's last column."""
    last = positions[..., -1]
    return (last if last.dim() == 1 else last.amax(0)) + 1
