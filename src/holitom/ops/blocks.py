"""Blocks of rows: how much of a video an operation takes at a time.

A tensor of the whole video's size is read from memory, and its pages are claimed, in every operation that
makes one. On a CPU this takes longer than the arithmetic, so several operations on one block after another,
which stays in the cores' caches, take a fraction of the time. A GPU has the bandwidth, and waits for launches
instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

CACHED = 1 << 21  # float32 elements of a block on a CPU, 8 MiB
LARGE = 1 << 26  # elsewhere, 256 MiB


def block_size(device: torch.device) -> int:
    """Float32 elements of one block on `device`."""
    return CACHED if device.type == "cpu" else LARGE


def blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Divide `rows` rows of `width` elements into slices of one block each, of a row at least."""
    return slices(rows, block_size(device) // width)


def slices(rows: int, step: int) -> Iterator[slice]:
    """Divide `rows` rows into slices of `step` rows, of one at least; the last may be shorter."""
    step = max(1, step)
    return (slice(first, min(rows, first + step)) for first in range(0, rows, step))
