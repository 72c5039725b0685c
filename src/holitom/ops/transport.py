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
    # Masses are rows `[G, 1, m]` and `[G, 1, k]`, by which a batch of matrices is multiplied much faster than
    # by columns.
    transposed = kernel.mT.contiguous()
    rows, columns = rows[:, None], columns[:, None]
    count = rows.sum(2, keepdim=True).clamp_min(1)
    u = rows / count
    v = columns / columns.sum(2, keepdim=True).clamp_min(1)
    r, c, least = rows.to(cost.dtype), columns.to(cost.dtype), tolerance * count
    moving = torch.ones_like(least, dtype=torch.bool)
    for _ in range(iterations):
        scaled = u / torch.bmm(c, transposed).clamp_min_(tiny)
        change = torch.linalg.vector_norm(scaled - r, ord=1, dim=2, keepdim=True)
        r = torch.where(moving, scaled, r)
        c = torch.where(moving, v / torch.bmm(r, kernel).clamp_min_(tiny), c)
        moving = moving & (change >= least)
    return r.mT * kernel * c
