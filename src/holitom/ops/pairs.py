"""Scalar products of every token of a video with every other, and clustering from these products.

Methods that cluster a whole video at once compare `P = T N` tokens with one another. `Products` computes all
`P^2` products at once where they are at most `WHOLE`, and block by block where they are more, so that the
memory that an hour of video takes is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from holitom.ops.ragged import top_mask

# Largest number of float32 products that are held at once (1 GiB: 83 frames of 196 tokens).
WHOLE = 1 << 28

# Float32 elements of one block of rows (256 MiB).
WORKSPACE = 1 << 26

# Squared distance that stands for one that is not finite.
FARTHEST = torch.finfo(torch.float32).max


class Products:
    """Scalar products of `P` tokens.

    Attributes:
        points: `[P, D]` float32.
        whole: `[P, P]` products of all tokens; None where they are more than `WHOLE`.
        square: `[P]`: product of each token with itself.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.whole = points @ points.T if len(points) ** 2 <= WHOLE else None
        self.square = points.square().sum(-1) if self.whole is None else self.whole.diagonal()

    def row(self, place: Tensor) -> Tensor:
        """Products `[P]` of all tokens with the token at `place` (`[1]` int64, on the device)."""
        if self.whole is not None:
            return self.whole[place][0]
        return self.points @ self.points[place][0]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the products block after block: a slice of `b` rows, and these rows `[b, P]`."""
        total = len(self.points)
        step = max(1, WORKSPACE // total)
        for first in range(0, total, step):
            rows = slice(first, min(total, first + step))
            yield rows, self.points[rows] @ self.points.T if self.whole is None else self.whole[rows]


def density_peaks(products: Products, offered: Tensor, count: int, knn: int) -> tuple[Tensor, Tensor]:
    """Cluster one large group by DPC-KNN (as `ops.clustering.dpc_knn`) without holding all its distances.

    It makes three passes over the products: densities, distances to denser tokens, nearest centres.

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
    ignored = ~offered

    def distances() -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of squared distances divided by `D`; infinite to tokens that are not offered."""
        norm = products.square
        for rows, product in products.blocks():
            square = torch.add(norm[rows, None] + norm, product, alpha=-2).clamp_min_(0).div_(width)
            square = square.nan_to_num_(nan=FARTHEST, posinf=FARTHEST)
            square.diagonal(offset=rows.start).zero_()  # products of a block may round to another value
            yield rows, square.masked_fill_(ignored, torch.inf)

    # Distances that fit one block are kept for all three passes; more blocks are computed anew in each.
    once = list(distances()) if total * total <= WORKSPACE else None
    k = min(knn, count)
    density = torch.cat(
        [square.topk(k, largest=False).values.sum(-1) for _, square in once or distances()]
    ).div_(-k)
    density = density.exp_()

    # Among equal densities the lower place counts as the denser. The densest token is always a centre.
    rank = density.masked_fill(ignored, -1).argsort(descending=True, stable=True).argsort()
    delta = torch.cat(
        [
            square.masked_fill(rank >= rank[rows, None], torch.inf).amin(-1)
            for rows, square in once or distances()
        ]
    )
    score = density * delta.clamp_max(FARTHEST).sqrt()
    center = top_mask(score[None], count, offered[None])[0]
    others = ~center
    nearest = torch.cat(
        [square.masked_fill(others, torch.inf).argmin(-1) for _, square in once or distances()]
    )
    return center, torch.where(center, place, nearest)
