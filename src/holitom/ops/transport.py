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
    """Compute transport plans between uniform masses by Sinkhorn's scaling.

    With `M = exp(-cost / regularisation)`, `c = 1` and masses `u`, `v` that sum to 1 it repeats
    `r <- u / (M c)`, `c <- v / (M^T r)`, starting from `r = 1`. A problem is frozen after the round in which
    `r` changed by less than `tolerance` on average. All `iterations` rounds, some ten operations each, run
    in any case: testing whether all problems are frozen would be a device synchronisation.

    Args:
        cost: `[G, m, k]` float32, finite: `G` problems.
        rows: `[G, m]` bool: whether each row is real rather than padding.
        columns: `[G, k]` bool: whether each column is real rather than padding.
        regularisation: weight of the entropy, above 0.
        iterations: number of rounds.
        tolerance: mean change of `r` below which a problem is frozen.

    Returns:
        `[G, m, k]`: plans, zero in padding. Every real column sums to 1 / the problem's number of real
        columns.
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
