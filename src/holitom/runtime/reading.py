"""Hold what hooks read from the vision tower in one call of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holitom.models.values import Read


@dataclass
class Reading:
    """What hooks read from the vision tower in one call of the encoder.

    Attributes:
        lengths: numbers of patches that attend to each other, see `Adapter.attention_lengths`.
        read: what hooks have read so far.
    """

    lengths: list[int] = field(default_factory=list)
    read: dict[str, Tensor] = field(default_factory=dict)


def joined(readings: Sequence[Reading]) -> Read:
    """Join what was read in all batches of a call, in order."""
    return {name: torch.cat([reading.read[name] for reading in readings]) for name in readings[0].read}
