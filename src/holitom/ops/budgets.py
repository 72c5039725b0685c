"""Budgets on the host: how many tokens each group may keep."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from holitom.ops.ragged import Sizes


def exact_total(ratio: float, frames: int, tokens: int) -> int:
    """`round(r T N)` of a video's tokens, at least one."""
    return max(1, round(ratio * frames * tokens))


def largest_remainder(sizes: Sizes, total: int) -> Sizes:
    """Share `total` among groups in proportion to their sizes, to the token (Hamilton's method).

    Each group gets the whole part of its quota; the rest goes, one each, to the largest fractions, of
    equals to the first. Integer arithmetic throughout.

    Args:
        sizes: `[G]`, their sum at least `total`.
        total: what the shares sum to.

    Returns:
        `[G]`: shares, none above its group's size.
    """
    share, fraction = np.divmod(sizes * total, max(1, int(sizes.sum())))
    share[np.argsort(-fraction, kind="stable")[: total - int(share.sum())]] += 1
    return share


def apportion(weights: npt.NDArray[np.float64], total: int, caps: Sizes) -> Sizes:
    """Share `total` among groups in proportion to `weights`, none above its cap, to the token.

    What a group cannot use goes to the others in proportion; then largest remainders, as above.

    Args:
        weights: `[G]`, positive.
        total: what the shares sum to, at most `caps.sum()`.
        caps: `[G]`.
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
    """`round(share * tokens)`, half to even, and one where that keeps none of them."""
    return max(min(1, tokens), round(share * tokens))
