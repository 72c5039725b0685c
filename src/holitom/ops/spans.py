"""Principal directions, distances to the span of earlier vectors, and an orthonormal basis that grows.

These are the parts of GleanVID (arXiv 2609.37042) that do not depend on a budget.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from holitom.ops.host import HOST, to_device, to_host
from holitom.ops.pairs import WORKSPACE

# Largest width at which principal directions are computed from the whole covariance.
WHOLE_WIDTH = 512

# For wider vectors: rounds of the block Krylov space, and vectors per round. Each round reads the video once.
ROUNDS, BLOCK = 6, 8

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

    def spread(self, means: Tensor) -> Tensor:
        """Values `[T, N, D]` of each position's cell in `means` `[T, C, D]`."""
        return means[:, self._of]


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
        image = points @ block - mean @ block
        block = points.T @ image - mean[:, None] * image.sum(0)
        for earlier in (*blocks, *blocks):  # twice, for rounding
            block = block - earlier @ (earlier.T @ block)
        block = torch.linalg.qr(block).Q
    basis = torch.cat(blocks, dim=1)
    image = points @ basis - mean @ basis
    return mean, _largest(image.T @ image, rank) @ basis.T


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
    the device has it, since in a still scene the difference is a millionth of its terms. The systems of all
    times are solved at once, or in batches of times that fit `WORKSPACE`.

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
    floor = torch.finfo(gram.dtype).tiny
    found, first = [], 0
    while first < times:
        # Take as many times as fit the workspace; every system is padded to the size of the batch's last one.
        last = first + 1
        while last < times and cells * (last + 1 - first) * (last + 1) ** 2 <= WORKSPACE:
            last += 1
        past = torch.arange(last, device=series.device)
        now = past[first:]
        lies_before = past < now[:, None]  # [n, last]
        both = lies_before[:, :, None] & lies_before[:, None, :]
        ridge = RIDGE * before[:, first:last, None].clamp_min(floor**0.5)
        system = torch.where(both, gram[:, None, :last, :last], 0.0)
        system.diagonal(dim1=2, dim2=3).add_(torch.where(lies_before, ridge, 1.0))
        known = torch.where(lies_before, gram[:, first:last, :last], 0.0)
        factor = torch.linalg.cholesky_ex(system).L
        part = torch.linalg.solve_triangular(factor, known[..., None], upper=False)[..., 0]
        found.append(square[:, first:last] - part.square().sum(-1))
        first = last
    return torch.cat(found, 1).nan_to_num_(nan=0.0, posinf=0.0).clamp_min_(0).sqrt_().T.float()


class Span:
    """An orthonormal basis `[D, q]` that grows; columns of rejected directions are zero."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._basis = torch.zeros(width, 0, device=device)

    def residual(self, vectors: Tensor) -> Tensor:
        """Components `[n, D]` of `vectors` `[n, D]` orthogonal to the basis.

        A component below `ENERGY` of its vector's squared length is zero.
        """
        left = vectors - (vectors @ self._basis) @ self._basis.T
        energy = left.square().sum(-1, keepdim=True)
        return left.masked_fill(energy <= ENERGY * vectors.square().sum(-1, keepdim=True), 0.0)

    def add(self, residual: Tensor, tolerance: float) -> None:
        """Add the directions of `residual` `[n, D]`, in order, whose length exceeds `tolerance` of the
        largest."""
        # A short residual holds rounding errors of its vector that point into the basis: they are taken out.
        residual = residual - (residual @ self._basis) @ self._basis.T
        directions, factor = torch.linalg.qr(residual.T)
        length = factor.diagonal().abs()
        joins = length > tolerance * length.max()
        basis = torch.cat([self._basis, torch.where(joins, directions, 0.0)], dim=1)
        width = len(basis)
        if basis.shape[1] > width:  # at most `D` columns are not zero
            order = basis.square().sum(0).argsort(descending=True, stable=True)
            basis = basis[:, order[:width]]
        self._basis = basis
