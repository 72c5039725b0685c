"""Merging dropped tokens into kept ones inside the language model (HoliTom, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from holitom.ops.ragged import gather_bags
from holitom.ops.similarity import unit_vectors


def most_attended(attention: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Split tokens into the `keep` most attended and the rest; ties go to the lowest index.

    Args:
        attention: `[V]`; what is not a number ranks behind all numbers.
        keep: number of tokens to keep, at most `V`.

    Returns:
        `[keep]` and `[V - keep]` int64 indices, each ascending.
    """
    order = attention.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = order.argsort(descending=True, stable=True)
    return order[:keep].sort().values, order[keep:].sort().values


def merge_into_most_similar(hidden: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    """Average every dropped token, in order, into the kept token most cosine-similar to it.

    The steps `h_i <- (h_i + h_j) / 2` for the `j_1 < ... < j_n` that join `i`, one after another, give
    `2^-n h_i + sum over p of 2^(p-n-1) h_{j_p}`: a weighted sum, which is computed at once.

    Args:
        hidden: `[V, D]`.
        kept: `[K]` int64, ascending.
        dropped: `[V - K]` int64, ascending: all other indices.

    Returns:
        `[K, D]`, the dtype of `hidden`.
    """
    keep = kept.shape[0]
    if keep == 0:
        return hidden[:0]
    unit = unit_vectors(hidden)
    owner = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    owner[kept] = torch.arange(keep, device=hidden.device)
    owner[dropped] = (unit[dropped] @ unit[kept].T).argmax(-1)

    bags = gather_bags(kept, owner)
    halvings = bags.size - bags.rank.clamp_min(1)  # number of times that each member is halved
    return bags.weighted_sum(hidden, torch.exp2(-halvings.float()))
