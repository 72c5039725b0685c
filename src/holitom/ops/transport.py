"""Entropic optimal transport between small sets of tokens, for many pairs of sets at once."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(
    cost: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    regularisation: float,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """Transport plans between uniform masses, by Sinkhorn's scaling.

    With `M = exp(-cost / regularisation)`, `c = 1` and masses `u`, `v` that sum to 1 it repeats
    `r <- u / (M c)`, `c <- v / (M^T r)`. A problem stops after the round in which `r` moved by less than
    `tolerance` on average (before the first, `r = 1`). Whether all have stopped is not asked, so the device
    is never waited for: `iterations` rounds of some ten operations run in any case, and move nothing any
    more.

    Args:
        cost: `[G, m, k]` float32, finite: `G` problems.
        rows: `[G, m]` bool: which rows are there.
        columns: `[G, k]` bool: which columns are there.
        regularisation: above 0.
        iterations: rounds at most.
        tolerance: mean change of `r` at which a problem stops.

    Returns:
        `[G, m, k]`: plans, zero where a row or column is not there. After a round every column sums to
        `1 / columns`.
    """
    tiny = torch.finfo(cost.dtype).tiny
    there = rows[:, :, None] & columns[:, None, :]
    kernel = torch.where(there, torch.exp(-cost / regularisation), 0.0)
    transposed = kernel.mT.contiguous()
    count = rows.sum(1, keepdim=True).clamp_min(1)
    u = rows / count
    v = columns / columns.sum(1, keepdim=True).clamp_min(1)
    r, c = rows.to(cost.dtype)[..., None], columns.to(cost.dtype)[..., None]
    u, v = u[..., None], v[..., None]
    moving = torch.ones_like(count, dtype=torch.bool)[..., None]
    for _ in range(iterations):
        scaled = u / torch.bmm(kernel, c).clamp_min_(tiny)
        change = (scaled - r).abs_().sum(1, keepdim=True) / count[..., None]
        r = torch.where(moving, scaled, r)
        c = torch.where(moving, v / torch.bmm(transposed, r).clamp_min_(tiny), c)
        moving = moving & (change >= tolerance)
    return r * kernel * c.mT
