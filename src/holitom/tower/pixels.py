"""Differences between frames, from the pixels that the processor passes to the vision tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Number of frames that are compared at a time, so that intermediate tensors do not grow with the video.
BLOCK = 32


def cells(patches: Tensor, std: Sequence[float]) -> Tensor:
    """Average 2 x 2 pixels, in levels of 0..255 up to a constant that all frames share.

    Averaging halves sensor noise and keeps thin strokes.

    Args:
        patches: `[T, S, ..., C, D, h, w]`, any floating dtype: the normalised pixels of each place, with `C`
            channels and `D` frames.
        std: divisor of each channel in the normalisation.

    Returns:
        `[T, S, c]` float32.
    """
    levels = 255 * torch.tensor(std, device=patches.device)[:, None, None, None]
    means = []
    for block in torch.split(patches, BLOCK):
        pixels = block.float() * levels
        pooled = F.avg_pool2d(pixels.flatten(0, -3), 2, ceil_mode=True)
        means.append(pooled.view(*pixels.shape[:2], -1))
    return torch.cat(means)


def changed(means: Tensor, threshold: float, reach: int) -> Tensor:
    """Compare every place between frames less than `reach` apart.

    Args:
        means: `[T, S, c]`, from `cells`.
        threshold: largest difference at which a place counts as unchanged, in levels of 0..255.
        reach: length of the longest group.

    Returns:
        `[reach - 1, T, S]` bool: at `(k - 1, t, s)` whether place `s` differs between frames `t` and `t + k`;
        False where there is no frame `t + k`.
    """
    frames, places, _ = means.shape
    found = torch.zeros(reach - 1, frames, places, dtype=torch.bool, device=means.device)
    for k in range(1, min(reach, frames)):
        for t in range(0, frames - k, BLOCK):
            last = min(t + BLOCK, frames - k)
            apart = (means[t + k : last + k] - means[t:last]).abs_().amax(-1)
            found[k - 1, t:last] = apart > threshold
    return found
