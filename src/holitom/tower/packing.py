"""The computed tokens of a vision tower as rows of one matrix, and attention from these rows.

Tokens are counted as the tower lays them out: frame after frame, or in its own order. `rows` says which of
the computed tokens stands at each of them, so that keys and values of a frame are an index away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holitom.ops.host import to_device

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# Stretches whose computed tokens are about as many go through attention together: eighths of their length.
LEVELS = 8
# Keys that go through attention at a time, so that what is gathered does not grow with the video.
KEYS_AT_ONCE = 2**15


@dataclass(frozen=True)
class Batch:
    """Stretches of one length that go through attention together.

    Attributes:
        queries: `[b, k]` int64: rows of their computed tokens; shorter ones are filled up with other rows.
        keys: `[b, L]` int64: rows that stand at all their tokens.
    """

    queries: Tensor
    keys: Tensor


@dataclass(frozen=True)
class Stretches:
    """Attention within stretches of a tower's tokens (frames, or windows in them).

    Attributes:
        batches: of all stretches that have computed tokens.
        order: `[n]` int64: which query, counted over the batches, each row is.
    """

    batches: tuple[Batch, ...]
    order: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kernel: Kernel) -> Tensor:
        """What each row's query finds among all tokens of its stretch.

        Args:
            query: `[n, heads, d]`.
            key: likewise.
            value: likewise.
            kernel: from `[b, heads, k, d]`, `[b, heads, L, d]` and values likewise to `[b, k, heads, d]`.

        Returns:
            `[n, heads * d]`.
        """
        found = [
            kernel(
                query[batch.queries].transpose(1, 2),
                key[batch.keys].transpose(1, 2),
                value[batch.keys].transpose(1, 2),
            ).flatten(0, 1)
            for batch in self.batches
        ]
        return torch.cat(found).flatten(1)[self.order]


Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Packing:
    """Which of a tower's `P` tokens are computed, and which computed token stands at each.

    Attributes:
        computed: `[P]` bool on the host.
        rows: `[P]` int64 on the host: the row of the computed token that stands at each token.
        at: `[n]` int64: the computed tokens, ascending.
        bank: `[P]` int64: `rows` on the device.
    """

    computed: Mask
    rows: Ints
    at: Tensor
    bank: Tensor

    @classmethod
    def of(cls, computed: Mask, source: Ints, device: torch.device) -> Packing:
        """From the computed tokens `[P]` and the token that stands in at each, itself where computed."""
        number = computed.cumsum() - 1
        rows = number[source]
        return cls(computed, rows, to_device(np.flatnonzero(computed), device), to_device(rows, device))

    def on(self, device: torch.device) -> Packing:
        """The same on another device."""
        return self if device == self.at.device else Packing.of(self.computed, self._sources(), device)

    def _sources(self) -> Ints:
        return np.flatnonzero(self.computed)[self.rows]

    def pack(self, tokens: Tensor) -> Tensor:
        """The rows `[n, ...]` of `tokens` `[P, ...]`."""
        return tokens.index_select(0, self.at)

    def fill(self, rows: Tensor) -> Tensor:
        """All tokens `[P, ...]`: `rows` `[n, ...]`, those of other frames where nothing was computed."""
        return rows.index_select(0, self.bank)

    def stretches(self, tokens: Iterable[Ints]) -> Stretches:
        """Attention within stretches of tokens.

        Args:
            tokens: for each length `L`, `[F, L]` int64: the tokens of the stretches that have it. Each
                computed token is in one stretch.
        """
        device = self.at.device
        batches: list[Batch] = []
        order = np.empty(len(self.at), dtype=np.int64)
        seen = 0
        for each in tokens:
            computed = self.computed[each]
            counts = computed.sum(1)
            # Computed tokens first, in their order.
            first = np.take_along_axis(each, np.argsort(~computed, axis=1, kind="stable"), 1)
            for at in _alike(counts, each.shape[1]):
                queries = self.rows[first[at, : counts[at].max()]]
                own = np.arange(queries.shape[1]) < counts[at, None]
                order[queries[own]] = seen + np.flatnonzero(own)
                seen += queries.size
                batches.append(
                    Batch(to_device(queries, device), to_device(self.rows[each[at]], device)),
                )
        return Stretches(tuple(batches), to_device(order, device))


def _alike(counts: Ints, length: int) -> list[Ints]:
    """Stretches that have about as many computed tokens, those that are computed whole apart.

    Args:
        counts: `[F]`: of each stretch's computed tokens; stretches without any are left out.
        length: of these stretches.
    """
    level = -(-counts * LEVELS // length) + (counts == length)
    together = max(1, KEYS_AT_ONCE // length)
    found = []
    for each in np.unique(level[counts > 0]):
        at = np.flatnonzero(level == each)
        at = at[counts[at].argsort(kind="stable")]
        found += [at[i : i + together] for i in range(0, len(at), together)]
    return found
