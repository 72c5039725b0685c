"""Budgets on the host: how many tokens each group may keep."""

from __future__ import annotations

import numpy as np

from holitom.ops.ragged import Sizes


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
