"""Operations on groups of unequal size, without loops over groups and without device synchronisations.

The host knows the size and the budget of every group beforehand; the device finds out which tokens they are.
Groups stand one after another in one tensor (ragged), so a group is its first index and its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from holitom.ops.host import to_device

Sizes = npt.NDArray[np.int64]


def compact(mask: Tensor, count: int) -> Tensor:
    """Find the flat indices of true entries, ascending: `nonzero` without its device synchronisation.

    With the running count of true entries, the n-th of them is the first entry whose count is n:

        mask          0 1 1 0 1
        cumsum        0 1 2 2 3       first 1 at index 1, first 2 at 2, first 3 at 4: [1, 2, 4]

    Args:
        mask: bool, any shape.
        count: number of true entries, which the host knows.

    Returns:
        `[count]` int64 indices into `mask.flatten()`.
    """
    nth = torch.arange(1, count + 1, device=mask.device)
    return torch.searchsorted(mask.flatten().cumsum(0), nth)


def top_mask(score: Tensor, budget: Tensor | int, offered: Tensor | None = None) -> Tensor:
    """Mark the `budget[g]` highest scores of every row `g`; ties go to the lowest index.

    Args:
        score: `[G, m]`; what is not a number ranks behind all numbers.
        budget: `[G, 1]` int64, or one number for all rows.
        offered: `[G, m]` bool: entries to choose from, at least `budget[g]` in row `g`. None: all.

    Returns:
        `[G, m]` bool with `budget[g]` true entries in row `g`.
    """
    least = torch.finfo(score.dtype).min
    score = score.nan_to_num(nan=least, posinf=torch.inf, neginf=least)
    if offered is not None:
        score = torch.where(offered, score, -torch.inf)
    rank = score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return rank < budget


def group_sizes(group: Tensor, count: int) -> Tensor:
    """Count the entries of each of `count` groups: `[count]` int64 from the group `[P]` int64 of each
    entry."""
    sizes = torch.zeros(count, dtype=torch.int64, device=group.device)
    return sizes.scatter_add(0, group, torch.ones_like(group))


def rankable(score: Tensor) -> Tensor:
    """Convert scores `[...]` to finite float32; what is not a number ranks behind all numbers."""
    return score.detach().float().nan_to_num(nan=torch.finfo(torch.float32).min)


def unit_range(score: Tensor) -> Tensor:
    """Scale each row of scores `[..., N]` to [0, 1]; a row of equal scores becomes 0."""
    low, high = score.aminmax(dim=-1, keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (score - low) / spread, 0.0)


def rank_within(score: Tensor, group: Tensor) -> Tensor:
    """Rank every score within its group, which may be several rows; ties go to the lower index.

    Args:
        score: `[R, m]`: the rows of one group one after another.
        group: `[R]` int64, ascending: the number of each row's group.

    Returns:
        `[R, m]` int64: rank of each score, 0 for the highest of its group.
    """
    of_row = group[:, None].expand_as(score).flatten().contiguous()
    order = score.flatten().argsort(descending=True, stable=True)
    order = order[of_row[order].argsort(stable=True)]
    first = torch.searchsorted(of_row, of_row)  # the group's first flat index, in `score` as in `order`
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return (place - first).view_as(score)


def run_means(
    rows: Tensor,
    first: Tensor,
    lengths: Sizes,
    stride: int,
    skip: Tensor | None = None,
    skipped: int = 0,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Average strided runs of rows: run `k` is the `lengths[k]` rows `first[k], first[k] + stride, ...`.

    The index of each row is its run's first row plus the stride times its rank in the run. With `first = [1,
    0]`, `lengths = [3, 2]` and `stride = 4`:

        run                          0 0 0 1 1
        arange - start[run]          0 1 2 0 1
        index                        1 5 9 0 4        means of rows 1, 5, 9 and of rows 0, 4

    Rows are summed in float32 and not copied.

    Args:
        rows: `[R, D]`.
        first: `[K]` int64, `K >= 1`.
        lengths: `[K]` on the host, all positive.
        stride: distance between successive rows of a run.
        skip: `[R]` bool: rows to leave out of the means; never all rows of a run.
        skipped: number of rows of the runs that `skip` leaves out.
        scale: `[R]`, the dtype of `rows`: factor on each row. None: 1.

    Returns:
        `[K, D]`, the dtype of `rows`, and `[K]` int64: number of rows in each mean.
    """
    total, device = int(lengths.sum()), rows.device
    start, length = to_device(np.stack([lengths.cumsum() - lengths, lengths]), device).unbind()
    run = torch.repeat_interleave(length, output_size=total)
    index = first[run] + (torch.arange(total, device=device) - start[run]) * stride
    if skip is not None:
        kept = compact(~skip[index], total - skipped)
        index, run = index[kept], run[kept]
        length = group_sizes(run, len(lengths))
        start = length.cumsum(0) - length
    if scale is None:
        return F.embedding_bag(index, rows, start, mode="mean"), length
    weight = scale[index] / length[run]
    return F.embedding_bag(index, rows, start, mode="sum", per_sample_weights=weight), length


@dataclass(frozen=True)
class Bags:
    """Tokens gathered around heads: bag after bag, each its head and then the tokens that joined, ascending.

    Tokens 0..5 with heads 1 and 4, where 0 and 3 join 1, and 2 and 5 join 4 (owner = [0, 0, 1, 0, 1, 1]):

        member    1 0 3 | 4 2 5
        rank      0 1 2 | 0 1 2
        size      3 3 3 | 3 3 3        start [0, 3], count [3, 3]

    Attributes:
        member: `[P]` int64: indices of the tokens, bag after bag.
        rank: `[P]` int64: rank of each member in its bag; the head has 0.
        size: `[P]` int64: size of each member's bag.
        start: `[C]` int64: index in `member` of each head.
        count: `[C]` int64: size of each bag.
    """

    member: Tensor
    rank: Tensor
    size: Tensor
    start: Tensor
    count: Tensor

    def shares(self, head: float | Tensor | None) -> Tensor:
        """Weights `[P]`, in the order of `member`, of each token in the mean of its bag; each bag's sum to 1.

        Args:
            head: weight of the heads, one number or `[P]` in the order of `member`; the tokens that joined
                split the rest evenly, and a head that no token joined has weight 1. None: equal weights.
        """
        if head is None:
            return 1.0 / self.size
        of_head = torch.where(self.size == 1, 1.0, head)
        return torch.where(self.rank == 0, of_head, (1.0 - head) / (self.size - 1))

    def weighted_sum(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Sums `[C, D]` over each bag of `tokens` (`[P, D]`) times `weight` (`[P]`, in the order of
        `member`)."""
        return F.embedding_bag(
            self.member, tokens, self.start, mode="sum", per_sample_weights=weight.to(tokens.dtype)
        )


def gather_bags(heads: Tensor, owner: Tensor) -> Bags:
    """Sort tokens by the bag that owns them.

    Args:
        heads: `[C]` int64, ascending: the tokens that own a bag.
        owner: `[P]` int64: the bag `0..C-1` of each token; head `c` owns itself (`owner[heads[c]] == c`).
    """
    joined = torch.ones_like(owner).index_fill(0, heads, 0)
    member = (2 * owner + joined).argsort(stable=True)
    count = group_sizes(owner, len(heads))
    start = count.cumsum(0) - count
    bag = owner[member]
    rank = torch.arange(len(owner), device=owner.device) - start[bag]
    return Bags(member=member, rank=rank, size=count[bag], start=start, count=count)
