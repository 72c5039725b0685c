"""Scalar products of every token of a group with every other, and clustering from these products.

Methods that cluster a whole video at once compare `P = T N` tokens with one another. `Products` computes all
`P^2` products at once where they are at most `WHOLE`, and block by block where they are more, so that the
memory that an hour of video takes is bounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holitom.ops.blocks import slices
from holitom.ops.ragged import compact, top_mask
from holitom.ops.similarity import cosines

# Largest number of float32 products that are held at once (1 GiB: 83 frames of 196 tokens).
WHOLE = 1 << 28

# Float32 elements of one block of rows (256 MiB).
WORKSPACE = 1 << 26

# Products of points from `WIDE` on that take `BANDED` multiplications a group are computed in bands of `BAND`
# rows or more, at most `BANDS` of them. Smaller ones take less time than the copies that bands add.
WIDE, BANDED, BAND, BANDS = 512, 100_000_000, 48, 16

# Squared distance that stands for one that is not finite.
FARTHEST = torch.finfo(torch.float32).max


def gram(points: Tensor) -> Tensor:
    """Compute the scalar products of all points with one another.

    The products of large groups are computed in bands of rows, from the diagonal on, and mirrored: 5/8 of the
    operations with 4 bands, 17/32 with `BANDS`.

    Args:
        points: `[..., n, D]` float32: groups of points, or one group.

    Returns:
        `[..., n, n]` float32.
    """
    count, width = points.shape[-2:]
    pays = width >= WIDE and count * count * width >= BANDED
    bands = min(BANDS, count // BAND) if pays else 1
    if bands <= 1:
        return torch.bmm(points, points.mT) if points.dim() == 3 else points @ points.mT
    found = points.new_empty(*points.shape[:-1], count)
    step = -(-count // bands)
    for first in range(0, count, step):
        rows, behind = slice(first, first + step), slice(first + step, None)
        found[..., rows, first:] = points[..., rows, :] @ points[..., first:, :].mT
        found[..., behind, rows] = found[..., rows, behind].mT
    return found


def cosine_gram(points: Tensor) -> Tensor:
    """Compute the cosine similarities of all points of a group with one another, as `gram` their products.

    Returns:
        `[..., n, n]` float32; 0 where a vector is zero or not finite.
    """
    products = gram(points)
    square = products.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where((square > 0) & (square < torch.inf), square.rsqrt(), 0.0)
    return cosines(products, inverse, inverse)


class Products:
    """Scalar products of `P` tokens.

    Attributes:
        points: `[P, D]` float32.
        whole: `[P, P]` products of all tokens; None where they are more than `WHOLE`.
        square: `[P]`: product of each token with itself.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.whole = gram(points) if len(points) ** 2 <= WHOLE else None
        self.square = points.square().sum(-1) if self.whole is None else self.whole.diagonal()

    def row(self, place: Tensor) -> Tensor:
        """Products `[P]` of all tokens with the token at `place` (`[1]` int64, on the device)."""
        if self.whole is not None:
            return self.whole[place][0]
        return self.points @ self.points[place][0]

    def of(self, rows: slice, columns: Tensor | None = None) -> Tensor:
        """Products of the tokens `rows` with those at the places `columns` (`[c]` int64), or with all."""
        if self.whole is not None:
            return self.whole[rows] if columns is None else self.whole[rows][:, columns]
        return self.points[rows] @ (self.points if columns is None else self.points[columns]).T

    def blocks(self) -> list[slice]:
        """Divide the tokens into slices whose products with all tokens fit `WORKSPACE`."""
        total = len(self.points)
        return list(slices(total, WORKSPACE // total))


def density_peaks(products: Products, offered: Tensor, count: int, knn: int) -> tuple[Tensor, Tensor]:
    """Cluster one large group by DPC-KNN (as `ops.clustering.dpc_knn`) without holding all its distances.

    It makes two passes over the products of all tokens, for densities and for distances to denser tokens, and
    one over the products with the centres.

    Args:
        products: scalar products of all `P` tokens.
        offered: `[P]` bool: whether each token is clustered; at least `count` are.
        count: number of centres, from 1 up.
        knn: neighbours that a density averages over, the token itself among them.

    Returns:
        `[P]` bool: whether each token is a centre; `[P]` int64: the place of each token's nearest centre (its
        own for a centre; without meaning for tokens that are not offered).
    """
    total, width = products.points.shape
    place = torch.arange(total, device=offered.device)
    norm, blocks = products.square, products.blocks()
    # Tokens that are not offered are farthest from all; they come last where distances are equal.
    far = torch.where(offered, norm, torch.inf)

    def distances(rows: slice, columns: Tensor | None = None) -> Tensor:
        """Squared distances of the tokens `rows` to those at the places `columns`, or to all, times `D`."""
        other = far if columns is None else norm[columns]
        square = (norm[rows, None] + other).sub_(products.of(rows, columns), alpha=2).clamp_min_(0)
        return square.nan_to_num_(nan=FARTHEST, posinf=FARTHEST)

    k, square = min(knn, count), norm
    near: list[Tensor] = []
    for rows in blocks:
        square = distances(rows)
        square.diagonal(offset=rows.start).zero_()  # products of a block may round to another value
        near.append(square.topk(k, largest=False).values.sum(-1))
    density = torch.cat(near).div_(-k * width).exp_()

    # Among equal densities the lower place counts as the denser. The densest token is always a centre.
    rank = density.masked_fill(~offered, -1).argsort(descending=True, stable=True).argsort()
    delta: list[Tensor] = []
    for rows in blocks:
        square = square if len(blocks) == 1 else distances(rows)
        delta.append(square.masked_fill_(rank >= rank[rows, None], torch.inf).amin(-1))
    score = density * torch.cat(delta).clamp_max_(FARTHEST).sqrt_()
    center = top_mask(score[None], count, offered[None])[0]

    heads = compact(center, count)
    nearest = torch.cat([distances(rows, heads).argmin(-1) for rows in blocks])
    return center, torch.where(center, place, heads[nearest])
