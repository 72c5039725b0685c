"""Pool the patches of square frames over space."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d


def pool(patches: Tensor, side: int, mode: str, stride: int) -> Tensor:
    """Pool frames of `side * side` patches.

    Channels come last, as they are in memory. Where they come first, PyTorch's kernels are slower: on a GPU
    one has a thread for each token of a frame, which goes through all frames and channels.

    Args:
        patches: `[F, side * side, D]`.
        side: rows and columns of a frame's patches.
        mode: "average", "max" or "bilinear".
        stride: number of patches that become one, in each direction; "bilinear" rounds the new side up, the
            others down.

    Returns:
        `[F, N, D]`.
    """
    grid = patches.view(len(patches), side, side, -1).permute(0, 3, 1, 2)
    if mode == "average":
        grid = avg_pool2d(grid, stride)
    elif mode == "max":
        grid = max_pool2d(grid, stride)
    else:
        grid = interpolate(grid, size=2 * (math.ceil(side / stride),), mode="bilinear")
    return grid.permute(0, 2, 3, 1).flatten(1, 2)
