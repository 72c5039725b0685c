"""Divide a call of the vision tower into batches of frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from holitom.models.base import Adapter
from holitom.models.parts import Parts
from holitom.runtime.call import Kwargs

USUAL_BATCH = 32
"""Number of frames of a batch where videos are encoded while they are read and `tower_batch` is None."""


def parts_of(adapter: Adapter, given: Kwargs, size: int) -> Parts | None:
    """Divide the arguments of a call of the encoder into parts; None where it runs on all frames at once.

    It runs on all frames at once where they fit into one batch, and where the caller wants hidden states,
    attention weights or a tuple.

    Args:
        adapter: the model's adapter.
        given: arguments of the call, by name.
        size: largest number of frames of a batch.
    """
    wants = given.get("output_hidden_states") or given.get("output_attentions")
    if wants or given.get("return_dict") is False:
        return None
    parts = adapter.in_parts(given)
    return parts if parts is not None and parts.steps > steps_of(adapter, size) else None


def steps_of(adapter: Adapter, frames: int) -> int:
    """Return the number of steps of a batch of `frames`, at least 1."""
    return max(1, frames // adapter.frames_per_step)


def batches(steps: int, size: int, borders: npt.NDArray[np.bool_] | None = None) -> list[tuple[int, int]]:
    """Return the first step of each batch and the step after its last, in order.

    Args:
        steps: number of steps, at least 1.
        size: largest number of steps of a batch; a batch is larger where the next border is further away.
        borders: `[steps + 1]`: whether a batch may begin before each step, and end after the last; None: all.
    """
    ends = np.arange(steps + 1) if borders is None else np.flatnonzero(borders)
    found, begin = [], 0
    while begin < steps:
        near = int(np.searchsorted(ends, begin + size, side="right")) - 1
        end = int(ends[near]) if ends[near] > begin else int(ends[near + 1])
        found.append((begin, end))
        begin = end
    return found
