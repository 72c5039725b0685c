"""Groups of unequal size without loops and without asking the device how large they are.

Sizes and budgets are known to the host beforehand; the device only finds out *which* tokens.
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
    """Where `mask` is true, in ascending flat order: `nonzero` with a count the host already knows.

    Args:
        mask: bool, any shape.
        count: how many entries are true.

    Returns:
        `[count]` int64 indices into `mask.flatten()`.
    """
    nth = torch.arange(1, count + 1, device=mask.device)
    return torch.searchsorted(mask.flatten().cumsum(0), nth)


def top_mask(score: Tensor, budget: Tensor | int, offered: Tensor | None = None) -> Tensor:
    """The `budget[g]` highest scores of every row `g`; of equals the lowest index.

    Args:
        score: `[G, m]`; what is not a number ranks behind all numbers.
        budget: `[G, 1]` int64, or one for all rows.
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


def rank_within(score: Tensor, group: Tensor) -> Tensor:
    """How many scores of its group stand before each one: higher ones, and equal ones of lower index.

    Args:
        score: `[R, m]`: rows, those of one group one after another.
        group: `[R]` int64, ascending: the number of each row's group.

    Returns:
        `[R, m]` int64.
    """
    of_row = group[:, None].expand_as(score).flatten().contiguous()
    order = score.flatten().argsort(descending=True, stable=True)
    order = order[of_row[order].argsort(stable=True)]
    first = torch.searchsorted(of_row, of_row)  # the group's first place, in `score` as in `order`
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return (place - first).view_as(score)


def run_means(
    rows: Tensor, first: Tensor, lengths: Sizes, stride: int, skip: Tensor | None = None, skipped: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean of each strided run of rows: `first[k], first[k] + stride, ...`, `lengths[k]` of them.

    Rows are read where they lie and summed in float32; no copy of them is made.

    Args:
        rows: `[R, D]`.
        first: `[K]` int64, `K >= 1`.
        lengths: `[K]` on the host, all positive.
        stride: rows from one to the next of a run.
        skip: `[R]` bool: rows that count in no mean; never all of a run.
        skipped: how many rows of the runs that leaves out.

    Returns:
        `[K, D]`, the dtype of `rows`, and `[K]` int64: how many rows each mean is over.
    """
    total, device = int(lengths.sum()), rows.device
    start, length = to_device(np.stack([lengths.cumsum() - lengths, lengths]), device).unbind()
    run = torch.repeat_interleave(length, output_size=total)
    index = first[run] + (torch.arange(total, device=device) - start[run]) * stride
    if skip is not None:
        kept = compact(~skip[index], total - skipped)
        index, run = index[kept], run[kept]
        length = torch.zeros_like(length).scatter_add(0, run, torch.ones_like(run))
        start = length.cumsum(0) - length
    return F.embedding_bag(index, rows, start, mode="mean"), length


@dataclass(frozen=True)
class Bags:
    """Tokens gathered around heads, bag after bag: its head, then those that joined, by index.

    Attributes:
        member: `[P]` int64: the token in each place.
        rank: `[P]` int64: its rank in its bag; 0 is the head.
        size: `[P]` int64: the size of that bag.
        start: `[C]` int64: the place of each head.
        count: `[C]` int64: the size of each bag.
    """

    member: Tensor
    rank: Tensor
    size: Tensor
    start: Tensor
    count: Tensor

    def shares(self, head: float | Tensor | None) -> Tensor:
        """`[P]`, by place: what each member counts for in its bag's mean.

        Args:
            head: the head's share, one for all or by place (`[P]`); those that joined split the rest evenly,
                and a head that none joined has all. None: every member counts alike.
        """
        if head is None:
            return 1.0 / self.size
        of_head = torch.where(self.size == 1, 1.0, head)
        return torch.where(self.rank == 0, of_head, (1.0 - head) / (self.size - 1))

    def weighted_sum(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """`[C, D]`: each bag's sum of `tokens` (`[P, D]`) times `weight` (`[P]`, by place)."""
        return F.embedding_bag(
            self.member, tokens, self.start, mode="sum", per_sample_weights=weight.to(tokens.dtype)
        )


def gather_bags(heads: Tensor, owner: Tensor) -> Bags:
    """Put every token into the bag of its owner.

    Args:
        heads: `[C]` int64, ascending: the tokens that own a bag.
        owner: `[P]` int64: the bag `0..C-1` of each token; head `c` owns itself (`owner[heads[c]] == c`).
    """
    joined = torch.ones_like(owner).index_fill(0, heads, 0)
    member = (2 * owner + joined).argsort(stable=True)
    count = torch.zeros_like(heads).scatter_add(0, owner, torch.ones_like(owner))
    start = count.cumsum(0) - count
    bag = owner[member]
    rank = torch.arange(len(owner), device=owner.device) - start[bag]
    return Bags(member=member, rank=rank, size=count[bag], start=start, count=count)
