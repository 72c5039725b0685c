"""The vision tower in batches of frames: which go together, and what is read of them all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holitom.models.base import Adapter
from holitom.models.parts import Parts
from holitom.runtime.call import Kwargs, Reading

USUAL_BATCH = 32
"""Frames of a batch where videos come in parts and `tower_batch` says nothing."""


def parts_of(adapter: Adapter, given: Kwargs, size: int) -> Parts | None:
    """A call of the encoder in parts, for batches of `size` frames; None where it runs at once.

    That is where its frames fit into one batch, and where the call wants more than features.

    Args:
        adapter: of the model.
        given: arguments of the call, by name.
        size: of a batch, in frames.
    """
    wants = given.get("output_hidden_states") or given.get("output_attentions")
    if wants or given.get("return_dict") is False:
        return None
    parts = adapter.in_parts(given)
    return parts if parts is not None and parts.steps > steps_of(adapter, size) else None


def steps_of(adapter: Adapter, frames: int) -> int:
    """Of how many steps a batch of `frames` is: one at least."""
    return max(1, frames // adapter.frames_per_step)


def batches(steps: int, size: int, borders: npt.NDArray[np.bool_] | None = None) -> list[tuple[int, int]]:
    """The first step of each batch and the one behind its last, in their order.

    Args:
        steps: that there are, at least 1.
        size: steps of a batch, at most; more where the next border lies further.
        borders: `[steps + 1]`: before which steps a batch may begin, the end included; None: all.
    """
    ends = np.arange(steps + 1) if borders is None else np.flatnonzero(borders)
    found, begin = [], 0
    while begin < steps:
        near = int(np.searchsorted(ends, begin + size, side="right")) - 1
        end = int(ends[near]) if ends[near] > begin else int(ends[near + 1])
        found.append((begin, end))
        begin = end
    return found


def joined(readings: Sequence[Reading]) -> Reading:
    """What was read of all patches, from what was read of each batch's."""

    def together(parts: list[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.cat(there) if len(there) == len(parts) else None

    return Reading(
        [length for reading in readings for length in reading.lengths],
        together([reading.importance for reading in readings]),
        together([reading.keys for reading in readings]),
        together([reading.shallow for reading in readings]),
    )
