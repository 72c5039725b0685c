"""Cosine k-means over all tokens of a video, from farthest-first seeds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from holitom.ops.pairs import WORKSPACE, Products
from holitom.ops.ragged import group_sizes

EPSILON = 1e-6  # least norm that a vector is divided by


@dataclass(frozen=True)
class _Groups:
    """Tokens by cluster; the prototype of a cluster is their weighted sum, scaled to length 1.

    Attributes:
        member: `[M]` int64: indices of tokens, cluster after cluster.
        bag: `[M]` int64: the cluster of each member.
        weight: `[M]` float32: weight of each member, 0 or 1.
        start: `[C]` int64: index in `member` at which each cluster begins.
        count: `[C]` int64: number of members of each cluster that have a weight, at least 1.
    """

    member: Tensor
    bag: Tensor
    weight: Tensor
    start: Tensor
    count: Tensor

    def sums(self, rows: Tensor) -> Tensor:
        """Sum the members' `rows` (`[P, n]`) over each cluster: `[C, n]`."""
        return F.embedding_bag(self.member, rows, self.start, mode="sum", per_sample_weights=self.weight)


def cosine_kmeans(unit: Tensor, count: int, rounds: int) -> Tensor:
    """Gather tokens into `count` clusters, none of them empty.

    The first seed is token 0; each next seed is the token whose largest similarity to the seeds so far is
    lowest, which takes `count` dependent steps. Then, `rounds` times, every token is assigned to the most
    similar prototype, and each prototype becomes the normalised mean of its tokens. The prototype of an empty
    cluster becomes the token that is least similar to its own prototype, a different token for each empty
    cluster. Ties go to the lowest index. Convergence is not tested, since rounds after it change nothing and
    the test would be a device synchronisation.

    Args:
        unit: `[P, D]` float32: tokens scaled to length 1, or zero.
        count: number of clusters, in `1..P`.
        rounds: number of Lloyd's rounds.

    Returns:
        `[P]` int64: the cluster `0..count-1` of each token.
    """
    products = Products(unit)
    seeds = _farthest_first(products, count)
    place, ones = torch.arange(count, device=unit.device), torch.ones_like(seeds)
    groups = _Groups(seeds, place, ones.float(), place, ones)
    for _ in range(rounds):
        best, owner = _nearest(products, groups)
        groups = _grouped(owner, best, count)
    best, owner = _nearest(products, groups)
    return _filled(owner, best, count)


def _farthest_first(products: Products, count: int) -> Tensor:
    """Indices `[count]` int64 of the seeds."""
    seed = torch.zeros(1, dtype=torch.int64, device=products.points.device)
    seeds, best = [seed], products.row(seed).clone()
    for _ in range(count - 1):
        seed = best.argmin(keepdim=True)
        seeds.append(seed)
        torch.maximum(best, products.row(seed), out=best)
    return torch.cat(seeds)


def _nearest(products: Products, groups: _Groups) -> tuple[Tensor, Tensor]:
    """Find each token's largest similarity to a prototype (`[P]`), and that prototype's cluster (`[P]`
    int64)."""
    if products.whole is not None:
        return _nearest_by_products(products.whole, groups)
    means = groups.sums(products.points) / groups.count[:, None]
    prototypes = F.normalize(means, dim=-1, eps=EPSILON)
    step = max(1, WORKSPACE // len(prototypes))
    found = [(part @ prototypes.T).max(-1) for part in torch.split(products.points, step)]
    return torch.cat([best for best, _ in found]), torch.cat([owner for _, owner in found])


def _nearest_by_products(whole: Tensor, groups: _Groups) -> tuple[Tensor, Tensor]:
    """Compute what `_nearest` does from scalar products of tokens, without computing prototypes.

    The scalar product with a sum of tokens is the sum of the scalar products.
    """
    sums = groups.sums(whole)  # [C, P]: z . sum of the cluster
    own = (sums[groups.bag, groups.member] * groups.weight)[:, None]
    place = torch.arange(len(own), device=own.device)
    square = F.embedding_bag(place, own, groups.start, mode="sum")[:, 0]  # |sum|^2
    norm = square.clamp_min(0).sqrt().maximum(EPSILON * groups.count)
    best, owner = sums.div_(norm[:, None]).max(0)
    return best, owner


def _grouped(owner: Tensor, best: Tensor, count: int) -> _Groups:
    """Group tokens by cluster; the n-th empty cluster gets the n-th least similar token as its prototype.

    The last member of every cluster is such a token; it has a weight in empty clusters alone.
    """
    size = group_sizes(owner, count)
    empty = size == 0
    stand_in = best.argsort(stable=True)[(empty.cumsum(0) - 1).clamp_min(0)]
    bag = torch.cat([owner, torch.arange(count, device=owner.device)])
    order = bag.argsort(stable=True)
    members = size + 1
    return _Groups(
        member=torch.cat([torch.arange(len(owner), device=owner.device), stand_in])[order],
        bag=bag[order],
        weight=torch.cat([torch.ones_like(best), empty.to(best.dtype)])[order],
        start=members.cumsum(0) - members,
        count=size.clamp_min(1),
    )


def _filled(owner: Tensor, best: Tensor, count: int) -> Tensor:
    """Give every empty cluster one token of another cluster, the one least similar to its own prototype.

    Every cluster keeps its most similar token, so that none becomes empty. Of all other tokens the n-th empty
    cluster gets the n-th least similar one.
    """
    size = group_sizes(owner, count)
    rank = best.argsort(stable=True).argsort()
    last = torch.zeros_like(size).scatter_reduce(0, owner, rank, "amax")
    given = torch.where(rank == last[owner], len(owner), rank).argsort()
    empty = size == 0
    taken = given[(empty.cumsum(0) - 1).clamp_min(0)]
    # The scatter has one entry for every cluster; those of clusters that are not empty go behind the tokens.
    cluster = torch.arange(count, device=owner.device)
    into = torch.where(empty, taken, len(owner) + cluster)
    return torch.cat([owner, cluster]).scatter(0, into, cluster)[: len(owner)]
