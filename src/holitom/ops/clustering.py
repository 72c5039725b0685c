"""DPC-KNN: density peaks among k nearest neighbours, for all groups of tokens at once.

Du, Ding and Jia, "Study on density peaks clustering based on k-nearest neighbors", Knowledge-Based
Systems 2016 (10.1016/j.knosys.2016.02.001), with the merging rule of HoliTom, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holitom.ops.blocks import block_size, slices
from holitom.ops.host import to_device
from holitom.ops.pairs import gram
from holitom.ops.ragged import Sizes, compact, gather_bags, top_mask
from holitom.ops.similarity import unit_vectors

# Squared distance that stands for one that is not finite.
FARTHEST = torch.finfo(torch.float32).max

# Multiplications of one group's products from which groups of unlike sizes are padded apart.
COSTLY = 100_000_000

# Float32 elements that one batch of padded groups may hold (256 MiB).
WORKSPACE = 1 << 26


@dataclass(frozen=True)
class Clusters:
    """Clusters of tokens: their centres, merged with what joined them.

    Attributes:
        centers: `[C]` int64, ascending: the tokens that became centres.
        features: `[C, D]` float32: each centre merged with those that joined it.
        size: `[C]` int64: number of tokens in each cluster, its centre included.
        owner: `[P]` int64: the centre `0..C-1` that each token belongs to.
    """

    centers: Tensor
    features: Tensor
    size: Tensor
    owner: Tensor


def dpc_knn(
    tokens: Tensor,
    sizes: Sizes,
    budgets: Sizes,
    *,
    knn: int = 7,
    center_weight: float | None = 0.6,
    width: int | None = None,
    capped: bool = True,
) -> Clusters:
    """Choose `budgets[g]` centres in each group and merge every other token into its nearest one.

    A token that is not finite has the largest distance to every token; the centre that it joins becomes not
    finite too.

    Args:
        tokens: `[P, D]`: the groups one after another; computed with in float32.
        sizes: `[G]` on the host: tokens of each group; `G >= 1`.
        budgets: `[G]` on the host: centres of each group, `1 <= budgets[g] <= sizes[g]`.
        knn: neighbours that a density averages over, the token itself among them; fewer in a smaller group.
        center_weight: the centre's weight in its cluster; the mean of the tokens that joined has the rest.
            None: the cluster becomes the plain mean of its tokens.
        width: number of leading columns that distances are measured in; None: all. Merging averages all
            columns.
        capped: whether a density averages over no more than `budgets[g]` neighbours (HoliTom, FlashVID), or
            over `knn` whatever the budget (PruneVid, FastVID).
    """
    points = tokens.float()
    centers, owner = density_peaks(points[:, :width], sizes, budgets, knn=knn, capped=capped)
    bags = gather_bags(centers, owner)
    features = bags.weighted_sum(points, bags.shares(center_weight))
    return Clusters(centers=centers, features=features, size=bags.count, owner=owner)


def density_peaks(
    tokens: Tensor, sizes: Sizes, budgets: Sizes, *, knn: int, capped: bool, at: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the centres and owners of `dpc_knn` without merging; arguments as there.

    With `at`, `[P]` int64, the groups' tokens are those at these indices in `tokens`, group after group.

    Returns:
        `centers` and `owner` of `Clusters`.
    """
    points = tokens.float()
    batches = [
        alike[batch]
        for alike in _size_classes(sizes, points.shape[1])
        for batch in _batches(sizes[alike], points.shape[1], _workspace(sizes, points))
    ]
    found = [_assign(points, at, sizes, budgets, batch, knn, capped) for batch in batches]
    is_center, owner = (torch.cat(parts) for parts in zip(*found, strict=True))
    groups = np.concatenate(batches)
    if (np.diff(groups) < 0).any():  # bring the tokens back into the order of the groups
        place = to_device(_places(sizes, groups), points.device)
        is_center = torch.empty_like(is_center).index_copy_(0, place, is_center)
        owner = torch.empty_like(owner).index_copy_(0, place, owner)
    return compact(is_center, int(budgets.sum())), owner


def join_most_similar(tokens: Tensor, sizes: Sizes, heads: Tensor, counts: Sizes) -> Tensor:
    """Assign every token to the most cosine-similar head of its group; ties go to the first head.

    Args:
        tokens: `[P, D]`: the groups one after another; computed with in float32.
        sizes: `[G]` on the host: tokens of each group; `G >= 1`.
        heads: `[C]` int64, ascending: the tokens that others join.
        counts: `[G]` on the host: heads of each group, from 1 up.

    Returns:
        `[P]` int64: the head `0..C-1` of each token; a head's is itself.
    """
    unit = unit_vectors(tokens)
    joined = [_joined(unit, sizes, heads, counts, batch) for batch in _batches(sizes, unit.shape[1])]
    return torch.cat(joined).index_copy(0, heads, torch.arange(len(heads), device=heads.device))


def _joined(unit: Tensor, sizes: Sizes, heads: Tensor, counts: Sizes, batch: slice) -> Tensor:
    """Assign the tokens of one batch of groups, padded to the most tokens and the most heads of any group."""
    index = np.stack([sizes, counts, sizes.cumsum() - sizes, counts.cumsum() - counts])[:, batch, None]
    size, count, first_token, first_head = to_device(index, unit.device).unbind()  # [G, 1] each
    slot = torch.arange(int(sizes[batch].max()), device=unit.device)
    head = torch.arange(int(counts[batch].max()), device=unit.device)
    real, offered = slot < size, head < count
    padded = unit[first_token + slot * real]
    similarity = torch.bmm(padded, unit[heads[first_head + head * offered]].mT)  # [G, m, c]
    nearest = similarity.masked_fill(~offered[:, None, :], -torch.inf).argmax(-1)
    return (first_head + nearest).flatten()[compact(real, int(sizes[batch].sum()))]


def _size_classes(sizes: Sizes, width: int) -> list[Sizes]:
    """Part the groups by size, so that small ones are not padded to the largest one's size.

    Returns:
        Numbers of groups: those above a half, above a quarter, and below a quarter of the largest size, as
        far as there are any; one class where a group takes less time than the operations that a class adds.
    """
    largest, numbers = int(sizes.max()), np.arange(len(sizes), dtype=np.int64)
    if largest**2 * width < COSTLY:
        return [numbers]
    level = (2 * sizes <= largest).astype(np.int64) + (4 * sizes <= largest)
    return [numbers[level == each] for each in np.unique(level)]


def _places(sizes: Sizes, groups: Sizes) -> Sizes:
    """Indices of the tokens of `groups`, group after group in that order."""
    size, first = sizes[groups], (sizes.cumsum() - sizes)[groups]
    places: Sizes = (first - size.cumsum() + size).repeat(size) + np.arange(int(size.sum()))
    return places


def _workspace(sizes: Sizes, points: Tensor) -> int:
    """Elements of a batch: few enough to be read fast where a group takes longer than a batch's launches."""
    costly = int(sizes.max()) ** 2 * points.shape[1] >= COSTLY
    return min(WORKSPACE, 2 * block_size(points.device)) if costly else WORKSPACE


def _batches(sizes: Sizes, width: int, workspace: int | None = None) -> Iterator[slice]:
    """Split the groups into batches whose padded tensors fit `workspace` elements (None: `WORKSPACE`)."""
    largest = int(sizes.max())
    return slices(len(sizes), (workspace or WORKSPACE) // (largest * max(largest, width)))


def _assign(
    points: Tensor,
    at: Tensor | None,
    sizes: Sizes,
    budgets: Sizes,
    batch: Sizes,
    knn: int,
    capped: bool,
) -> tuple[Tensor, Tensor]:
    """Choose the centres and owners in a batch of groups, given by their numbers, padded to the largest's
    size `m`.

    Groups of 3, 1 and 2 tokens, the tokens numbered over all groups, `m = 3`:

        first_token + slot    0 1 2      real    1 1 1      padded    0 1 2
        (rows are groups)     3 4 5              1 0 0                3 3 3
                              4 5 6              1 1 0                4 5 4

    Returns:
        For the batch's tokens in order, `[P]` bool: whether each is a centre, and `[P]` int64: the centre
        that owns it, numbered over all groups.
    """
    index = np.stack([sizes, budgets, sizes.cumsum() - sizes, budgets.cumsum() - budgets])[:, batch, None]
    size, budget, first_token, first_center = to_device(index, points.device).unbind()  # [G, 1] each
    slot = torch.arange(int(sizes[batch].max()), device=points.device)
    real = slot < size  # [G, m]
    padding = ~real[:, None, :]
    # Padding repeats its group's first token, which changes no maximum; its columns are masked.
    place = first_token + slot * real
    padded = points.detach()[place if at is None else at[place]]

    # dist^2 = ||u - v||^2 / D, norms from the same product: exactly 0 from a token to itself.
    products = gram(padded)
    norm = products.diagonal(dim1=1, dim2=2)
    square = (norm[:, :, None] + norm[:, None, :] - 2 * products).clamp_min(0) / padded.shape[-1]
    square = square.nan_to_num_(nan=FARTHEST, posinf=FARTHEST)
    farthest = square.amax((1, 2)).sqrt()[:, None]
    square = square.masked_fill(padding, torch.inf)
    distance = square.sqrt()

    # rho = exp(-mean of the k smallest dist^2), k = min(knn, budget or size).
    nearest = square.topk(min(knn, len(slot)), largest=False).values
    k = (budget if capped else size).clamp_max(knn)
    uncounted = (slot[: nearest.shape[-1]] >= k)[:, None, :]
    density = torch.exp(-nearest.masked_fill(uncounted, 0).sum(-1) / k)

    # delta: the distance to the nearest denser token; the densest token has the largest distance of its
    # group. Among equal densities the lower index counts as the denser.
    rank = density.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    not_denser = rank[:, None, :] >= rank[:, :, None]
    delta = distance.masked_fill(not_denser, torch.inf).amin(-1).minimum(farthest)
    center = top_mask(density * delta, budget, real)

    # Every other token joins its nearest centre.
    nearest = distance.masked_fill(~center[:, None, :], torch.inf).argmin(-1)
    nearest = torch.where(center, slot, nearest)
    owner = (first_center + center.cumsum(-1) - 1).gather(-1, nearest)
    tokens = compact(real, int(sizes[batch].sum()))
    return center.flatten()[tokens], owner.flatten()[tokens]
