"""Principal directions, distances to the span of earlier vectors, and an orthonormal basis that grows.

These are the parts of GleanVID (arXiv 2609.37042) that do not depend on a budget.
"""

from __future__ import annotations

from math import cos, log, pi, sin

import numpy as np
import torch
from torch import Tensor

from holitom.ops.blocks import blocks as row_blocks
from holitom.ops.host import HOST, to_device, to_host
from holitom.ops.pairs import WORKSPACE

# Largest width at which principal directions are computed from the whole covariance.
WHOLE_WIDTH = 512

# For wider vectors: rounds of the block Krylov space, and vectors per round. Each round reads the video once.
ROUNDS, BLOCK = 6, 8

# Times whose systems are solved one by one; nodes from which those of later times are interpolated.
SOLVED, NODES = 256, 12

RIDGE = 1e-4  # of the mean squared length of the earlier vectors

# A residual with less than this share of its vector's squared length is rounding error.
ENERGY = 1e-5


class Cells:
    """Square blocks of a frame's grid, smaller at the right and the lower edge.

    A grid of 3 x 5 positions in cells of side 2 has `C = 6` cells:

        0 0 1 1 2
        0 0 1 1 2       size [4, 4, 2, 2, 2, 1]
        3 3 4 4 5

    Attributes:
        size: `[C]` float32: number of positions in each cell.
    """

    def __init__(self, grid: tuple[int, int], side: int, device: torch.device) -> None:
        rows, columns = grid
        across = -(-columns // side)
        row = torch.arange(rows, device=device)[:, None] // side
        self._of = (row * across + torch.arange(columns, device=device) // side).flatten()
        total = -(-rows // side) * across
        self.size = torch.zeros(total, device=device).scatter_add(
            0, self._of, torch.ones_like(self._of).float()
        )
        within = self._of == torch.arange(total, device=device)[:, None]
        self._share = within / self.size[:, None]  # [C, N]

    def means(self, features: Tensor) -> Tensor:
        """Means `[T, C, D]` of `features` `[T, N, D]` over the cells."""
        return self._share @ features

    def own(self, values: Tensor) -> Tensor:
        """Values `[T, N]` that each position has for its own cell in `values` `[T, N, C]`."""
        return values.gather(2, self._of[:, None].expand(len(values), -1, 1))[..., 0]


def principal_directions(points: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Compute the mean of points and the directions of largest variance.

    Up to a width of `WHOLE_WIDTH` they come from the whole covariance. For wider points they come from a
    Krylov space of `BLOCK` fixed vectors and `ROUNDS` products with the covariance. That is as exact where
    the first directions have much more variance than the others, as in visual features; elsewhere the
    directions have nearly the largest variance.

    Args:
        points: `[P, D]` float32, finite.
        rank: number of directions; at most `D` are found.

    Returns:
        `[D]`: the mean; `[rank, D]`: directions of length 1, by rising variance. Where all points are equal
        the directions are zero.
    """
    width = points.shape[1]
    mean = points.mean(0)
    rank = min(rank, width)
    if not rank:
        return mean, points.new_zeros(0, width)
    if width <= WHOLE_WIDTH:
        centred = points - mean
        return mean, _largest(centred.T @ centred, rank)
    rounds = max(ROUNDS, -(-2 * rank // BLOCK))
    start = torch.randn(width, BLOCK, generator=torch.Generator(HOST).manual_seed(0), device=HOST)
    block, blocks = torch.linalg.qr(start.to(points.device)).Q, []
    for _ in range(rounds):
        blocks.append(block)
        block = _scatter(points, mean, block)
        for earlier in (*blocks, *blocks):  # twice, for rounding
            block = block - earlier @ (earlier.T @ block)
        block = torch.linalg.qr(block).Q
    basis = torch.cat(blocks, dim=1)
    image = points @ basis - mean @ basis
    return mean, _largest(image.T @ image, rank) @ basis.T


def _scatter(points: Tensor, mean: Tensor, block: Tensor) -> Tensor:
    """Product `[D, k]` of the points' scatter matrix about `mean` with `block` `[D, k]`, in one pass."""
    shift, total, summed = mean @ block, torch.zeros_like(block.T), torch.zeros_like(block[0])
    for rows in row_blocks(len(points), points.shape[1], points.device):
        part = points[rows]
        image = part @ block - shift
        total.addmm_(image.T, part)
        summed += image.sum(0)
    return total.T - mean[:, None] * summed


def _largest(matrix: Tensor, rank: int) -> Tensor:
    """Eigenvectors `[rank, n]` of the largest eigenvalues of a symmetric matrix `[n, n]`, computed on the
    host.

    An eigenvector is zero where its eigenvalue is not above 0.
    """
    values, vectors = np.linalg.eigh(np.nan_to_num(to_host(matrix).astype(np.float64)))
    found = np.where(values[-rank:] > 0, vectors[:, -rank:], 0.0).T
    return to_device(np.ascontiguousarray(found, dtype=np.float32), matrix.device)


def past_novelty(series: Tensor) -> Tensor:
    """Distance of each vector to the span of the vectors before it, in each of several series.

    `rho = sqrt(z . z - b^T G^-1 b)` with `b = Z z`, `G = Z Z^T + 1e-4 (trace(Z Z^T) / t) I` and `Z` `[t, D]`
    the vectors before `z`; the first vector has `rho = |z|`. Scalar products and systems are in float64 where
    the device has it, since in a still scene the difference is a millionth of its terms.

    The systems of the first `SOLVED` times are solved, as many at once as fit `WORKSPACE`. Those of later
    times are interpolated (`_interpolated`), since solving each takes the fourth power of the number of
    times: minutes for 1,024.

    Args:
        series: `[T, C, D]` float32: `C` series of `T` vectors.

    Returns:
        `[T, C]` float32.
    """
    times, cells, _ = series.shape
    exact = series.transpose(0, 1) if series.device.type == "mps" else series.transpose(0, 1).double()
    gram = exact @ exact.mT  # [C, T, T]
    square = gram.diagonal(dim1=1, dim2=2)  # [C, T]
    before = (square.cumsum(1) - square) / torch.arange(times, device=series.device).clamp_min(1)
    ridge = RIDGE * before.clamp_min(torch.finfo(gram.dtype).tiny ** 0.5)
    found, first = [], 0
    while first < min(times, SOLVED):
        # Take as many times as fit the workspace; every system is padded to the size of the batch's last one.
        last = first + 1
        while last < min(times, SOLVED) and cells * (last + 1 - first) * (last + 1) ** 2 <= WORKSPACE:
            last += 1
        found.append(_solved(gram[:, :last, :last], ridge[:, first:last]))
        first = last
    while first < times:
        last = min(times, 2 * first)
        found.append(_interpolated(gram[:, :last, :last], ridge[:, first:last]))
        first = last
    return torch.cat(found, 1).nan_to_num_(nan=0.0, posinf=0.0).clamp_min_(0).sqrt_().T.float()


def _solved(gram: Tensor, ridge: Tensor) -> Tensor:
    """Squared distances `[C, n]` at the last `n` of `t` times, from one system for each time.

    Args:
        gram: `[C, t, t]`: scalar products of the vectors.
        ridge: `[C, n]`: the ridge of each time.
    """
    last, count = gram.shape[-1], ridge.shape[1]
    past = torch.arange(last, device=gram.device)
    lies_before = past < past[last - count :, None]  # [n, t]
    both = lies_before[:, :, None] & lies_before[:, None, :]
    system = torch.where(both, gram[:, None], 0.0)
    system.diagonal(dim1=2, dim2=3).add_(torch.where(lies_before, ridge[:, :, None], 1.0))
    known = torch.where(lies_before, gram[:, last - count :], 0.0)
    factor = torch.linalg.cholesky_ex(system).L
    part: Tensor = torch.linalg.solve_triangular(factor, known[..., None], upper=False)[..., 0]
    return gram.diagonal(dim1=1, dim2=2)[:, last - count :] - part.square().sum(-1)


def _interpolated(gram: Tensor, ridge: Tensor) -> Tensor:
    """What `_solved` computes, interpolated over the ridge.

    With one ridge `l` for all times, one Cholesky factor `L` of `G + l I` has the distances of all of them:
    that of time `t` is `L[t, t]^2 - l`. As a function of `log l` a distance is smooth, so it is interpolated
    from `NODES` Chebyshev nodes between the smallest and the largest ridge of the series. The relative error
    is below 1e-5 where the largest is 100 times the smallest. A ridge below a millionth of the largest counts
    as that.
    """
    count = ridge.shape[1]
    level = ridge.log()
    high = level.amax(1, keepdim=True)
    level = level.maximum(high - log(1e6))
    low = level.amin(1, keepdim=True)
    centre, half = (low + high) / 2, ((high - low) / 2).clamp_min(1e-3)
    total, weights, least = torch.zeros_like(level), torch.zeros_like(level), torch.finfo(level.dtype).eps
    for node in range(NODES):
        angle = (2 * node + 1) * pi / (2 * NODES)
        at = (centre + half * cos(angle)).exp()  # [C, 1]
        system = gram.clone()
        system.diagonal(dim1=1, dim2=2).add_(at)
        length = torch.linalg.cholesky_ex(system).L.diagonal(dim1=1, dim2=2)[:, -count:]
        apart = level - at.log()
        sign = 1 - 2 * (node % 2)
        weight = torch.where(apart.abs() < least, least, apart).reciprocal() * (sign * sin(angle))
        total += weight * (length.square() - at) / at.sqrt()
        weights += weight
    return total / weights * level.div(2).exp()


class Span:
    """An orthonormal basis of `q` rows `[q, D]` that grows; rows of rejected directions are zero.

    Args:
        width: `D`.
        most: largest number of vectors that are added in all.
        device: the device of the vectors.
    """

    def __init__(self, width: int, device: torch.device, most: int | None = None) -> None:
        # It holds `D` directions, and those of one call of `add` before the least are taken out.
        self._rows = torch.zeros(2 * width if most is None else min(most, 2 * width), width, device=device)
        self._held = 0

    def residual(self, vectors: Tensor) -> Tensor:
        """Components `[n, D]` of `vectors` `[n, D]` orthogonal to the basis.

        A component below `ENERGY` of its vector's squared length is zero.
        """
        left = self._without(vectors)
        length, whole = (torch.linalg.vector_norm(each, dim=-1, keepdim=True) for each in (left, vectors))
        return left.masked_fill_(length <= ENERGY**0.5 * whole, 0.0)

    def add(self, residual: Tensor, tolerance: float) -> None:
        """Add the directions of `residual` `[n, D]`, in order, whose length exceeds `tolerance` of the
        largest."""
        # A short residual holds rounding errors of its vector that point into the basis: they are taken out.
        directions, factor = torch.linalg.qr(self._without(residual).T)
        length = factor.diagonal().abs()
        joins = length > tolerance * length.max()
        last = self._held + directions.shape[1]
        self._rows[self._held : last] = torch.where(joins, directions, 0.0).T
        width = self._rows.shape[1]
        if last > width:  # at most `D` rows are not zero
            order = self._rows[:last].square().sum(1).argsort(descending=True, stable=True)
            self._rows[:width] = self._rows[order[:width]]
            last = width
        self._held = last

    def _without(self, vectors: Tensor) -> Tensor:
        """`vectors` `[n, D]` without their components in the basis, a new tensor."""
        rows = self._rows[: self._held]
        return torch.addmm(vectors, vectors @ rows.T, rows, alpha=-1)
