"""Hold what hooks read from the vision tower in one call of the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Reading:
    """Importance and keys of the vision tower in one call of the encoder.

    Attributes:
        lengths: numbers of patches that attend to each other, see `Adapter.attention_lengths`.
        importance: importance of every patch, see `Adapter.importance`; None until a hook reads it.
        keys: keys of every patch, see `Adapter.keys`; None until a hook reads them.
        shallow: importance at the early layer; None until a hook reads it.
    """

    lengths: list[int] = field(default_factory=list)
    importance: Tensor | None = None
    keys: Tensor | None = None
    shallow: Tensor | None = None

    @classmethod
    def joined(cls, readings: Sequence[Reading]) -> Reading:
        """Join the readings of all batches of a call, in order."""

        def together(parts: list[Tensor | None]) -> Tensor | None:
            there = [part for part in parts if part is not None]
            return torch.cat(there) if len(there) == len(parts) else None

        return cls(
            [length for reading in readings for length in reading.lengths],
            together([reading.importance for reading in readings]),
            together([reading.keys for reading in readings]),
            together([reading.shallow for reading in readings]),
        )
