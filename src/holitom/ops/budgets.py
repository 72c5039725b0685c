"""Budgets on the host: how many tokens each group may keep."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from holitom.ops.ragged import Sizes


def exact_total(ratio: float, frames: int, tokens: int) -> int:
    """Tokens that a retain ratio leaves of a video, `round(r T N)`, at least one."""
    return max(1, round(ratio * frames * tokens))


def largest_remainder(sizes: Sizes, total: int) -> Sizes:
    """Share `total` among groups in proportion to their sizes, to the token (Hamilton's method).

    Each group gets the whole part of its quota; the rest goes, one each, to the largest fractions; ties go to
    the first group. All arithmetic is in integers.

    Args:
        sizes: `[G]`, their sum at least `total`.
        total: what the shares sum to.

    Returns:
        `[G]`: shares, none above its group's size.
    """
    return largest_remainder_within(sizes, np.array([total]), np.array([len(sizes)]))


def largest_remainder_within(sizes: Sizes, totals: Sizes, members: Sizes) -> Sizes:
    """Share the total of each family of groups among them, as `largest_remainder` does for one family.

    Args:
        sizes: `[G]`: the groups, family after family.
        totals: `[F]`: what each family's shares sum to, at most the sum of its sizes.
        members: `[F]`: groups of each family, from 1 up.

    Returns:
        `[G]`: shares, none above its group's size.
    """
    start = members.cumsum() - members
    family = np.arange(len(members)).repeat(members)
    share, fraction = np.divmod(sizes * totals[family], np.maximum(1, np.add.reduceat(sizes, start))[family])
    order = np.lexsort((-fraction, family))  # stable: ties go to the first
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    left = totals - np.add.reduceat(share, start)
    return share + (place - start[family] < left[family])


def apportion(weights: npt.NDArray[np.float64], total: int, caps: Sizes) -> Sizes:
    """Share `total` among groups in proportion to `weights`, none above its cap, to the token.

    The part of a group's quota above its cap is shared among the other groups in proportion. Fractions are
    then rounded by largest remainders.

    Args:
        weights: `[G]`, positive.
        total: what the shares sum to, at most `caps.sum()`.
        caps: `[G]`: the largest share of each group.

    Returns:
        `[G]`: shares, none above its cap.
    """
    full = np.zeros(len(caps), dtype=bool)
    while True:
        left, weight = total - caps[full].sum(), weights[~full].sum()
        quota = np.where(full, caps, left * weights / (weight or 1.0))
        over = ~full & (quota > caps)
        if not over.any():
            break
        full |= over
    share = np.floor(quota).astype(np.int64)
    share[np.argsort(share - quota, kind="stable")[: total - int(share.sum())]] += 1
    return share


def kept_share(share: float, tokens: int) -> int:
    """Round `share * tokens` half to even; one where that is 0 and there are tokens."""
    return max(min(1, tokens), round(share * tokens))
