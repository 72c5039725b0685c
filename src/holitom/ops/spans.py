"""What vectors span: principal directions, distances to a past, a basis that grows.

The parts of GleanVID (arXiv 2609.37042) that know no budget.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from holitom.ops.host import to_device, to_host
from holitom.ops.pairs import WORKSPACE

# Up to this many channels principal directions come from the whole covariance.
WHOLE_WIDTH = 512

# Beyond: rounds and vectors a round of the block Krylov space. Each round reads the video once.
ROUNDS, BLOCK = 6, 8

RIDGE = 1e-4  # of the mean square of a past

# Of a residual with less than this share of its vector's energy nothing is left but rounding.
ENERGY = 1e-5


class Cells:
    """Blocks of places of a frame's grid, smaller at its far edges.

    Attributes:
        size: `[C]` float32: places of each cell.
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
        """`[T, C, D]`: means of `features` `[T, N, D]` over the cells."""
        return self._share @ features

    def spread(self, means: Tensor) -> Tensor:
        """`[T, N, D]`: to each place what its cell has in `means` `[T, C, D]`."""
        return means[:, self._of]


def principal_directions(points: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The directions in which points spread most, and their mean.

    Up to `WHOLE_WIDTH` channels from the whole covariance. Beyond, from a Krylov space of `BLOCK` fixed
    vectors and `ROUNDS` products with the covariance: as exact where the first directions stand out, as those
    of visual features do, and near them in variance where they do not.

    Args:
        points: `[P, D]` float32, finite.
        rank: directions, at most `D` are found.

    Returns:
        `[D]`: the mean; `[rank, D]`: directions of length 1, of rising variance. Where all points are equal
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
    start = torch.randn(width, BLOCK, generator=torch.Generator().manual_seed(0))
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
    """Eigenvectors `[rank, n]` of the largest eigenvalues of a symmetric matrix `[n, n]`, made on the host.

    Those of eigenvalues that are not above 0 are zero.
    """
    values, vectors = np.linalg.eigh(np.nan_to_num(to_host(matrix).astype(np.float64)))
    found = np.where(values[-rank:] > 0, vectors[:, -rank:], 0.0).T
    return to_device(np.ascontiguousarray(found, dtype=np.float32), matrix.device)


def past_novelty(series: Tensor) -> Tensor:
    """How far each vector is from the span of those before it, in each of several series.

    `rho = sqrt(z . z - b^T G^-1 b)` with `b = Z z`, `G = Z Z^T + 1e-4 (trace(Z Z^T) / t) I` and `Z` `[t, D]`
    the vectors before; the first has `|z|`. Scalar products and the systems are in float64 where the device
    has it: what a still scene leaves is a millionth of what it is the difference of. All are solved at once,
    in batches of times as `T^3` outgrows the workspace.

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
        # As many times at once as the workspace holds systems of; each is as large as the last one's past.
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
    """An orthonormal basis `[D, q]` that grows; columns that nothing joined are zero."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._basis = torch.zeros(width, 0, device=device)

    def residual(self, vectors: Tensor) -> Tensor:
        """What the span leaves of `vectors` `[n, D]`: zero below `ENERGY` of a vector's square."""
        left = vectors - (vectors @ self._basis) @ self._basis.T
        energy = left.square().sum(-1, keepdim=True)
        return left.masked_fill(energy <= ENERGY * vectors.square().sum(-1, keepdim=True), 0.0)

    def add(self, residual: Tensor, tolerance: float) -> None:
        """Take in directions of `residual` `[n, D]`, in order, those above `tolerance` of the largest."""
        directions, factor = torch.linalg.qr(residual.T)
        length = factor.diagonal().abs()
        joins = length > tolerance * length.max()
        basis = torch.cat([self._basis, torch.where(joins, directions, 0.0)], dim=1)
        width = len(basis)
        if basis.shape[1] > width:  # at most `D` columns are not zero
            order = basis.square().sum(0).argsort(descending=True, stable=True)
            basis = basis[:, order[:width]]
        self._basis = basis
