"""The computed tokens of a vision tower as rows of one matrix, and attention from these rows.

The tower's `P` tokens are in its own order. `n` of them are computed and become the rows of a matrix; `rows`
maps every token to the row whose values it takes. Two frames of three tokens, where only token 4 of the
second frame is computed (`source` is the token that each takes its values from):

    token       0 1 2   3 4 5
    computed    1 1 1   0 1 0       at      0 1 2 4        (tokens of the rows)
    source      0 1 2   0 4 2       rows    0 1 2 0 3 2    (row of every token: keys of frame 1 are rows 0 3
    2)
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

# Stretches are batched by their number of computed tokens, in steps of an eighth of their length.
LEVELS = 8
# Largest number of keys of a batch, so that gathered keys and values do not grow with the video.
KEYS_AT_ONCE = 2**15


@dataclass(frozen=True)
class Batch:
    """Stretches of one length whose attention is computed together.

    Attributes:
        queries: `[b, k]` int64: rows of their computed tokens; shorter lists are filled with other rows.
        keys: `[b, L]` int64: rows of all their tokens.
    """

    queries: Tensor
    keys: Tensor


@dataclass(frozen=True)
class Stretches:
    """Attention within stretches of a tower's tokens (frames, or windows in them).

    Attributes:
        batches: batches of all stretches that have computed tokens.
        order: `[n]` int64: index of each row's query, counted over the batches.
    """

    batches: tuple[Batch, ...]
    order: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, kernel: Kernel) -> Tensor:
        """Compute the attention of each row's query over all tokens of its stretch.

        Args:
            query: `[n, heads, d]`.
            key: `[n, heads, d]`.
            value: `[n, heads, d]`.
            kernel: maps queries `[b, heads, k, d]`, keys and values `[b, heads, L, d]` to `[b, k, heads, d]`.

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
    """The computed tokens of a tower's `P` tokens, and the row that each token takes its values from.

    Attributes:
        computed: `[P]` bool on the host: whether a token is computed.
        rows: `[P]` int64 on the host: the row of each token.
        at: `[n]` int64: the computed tokens, ascending.
        bank: `[P]` int64: `rows` on the device.
    """

    computed: Mask
    rows: Ints
    at: Tensor
    bank: Tensor

    @classmethod
    def of(cls, computed: Mask, source: Ints, device: torch.device) -> Packing:
        """Make a packing.

        Args:
            computed: `[P]` bool: whether a token is computed.
            source: `[P]` int64: the computed token that each takes its values from; itself if computed.
            device: device of the indices.
        """
        number = computed.cumsum() - 1
        rows = number[source]
        return cls(computed, rows, to_device(np.flatnonzero(computed), device), to_device(rows, device))

    def on(self, device: torch.device) -> Packing:
        """The packing with its indices on `device`."""
        if device == self.at.device:
            return self
        return Packing.of(self.computed, np.flatnonzero(self.computed)[self.rows], device)

    def pack(self, tokens: Tensor) -> Tensor:
        """Select the rows `[n, ...]` of `tokens` `[P, ...]`."""
        return tokens.index_select(0, self.at)

    def fill(self, rows: Tensor) -> Tensor:
        """Expand `rows` `[n, ...]` to all tokens `[P, ...]`, which take the values of their reference
        frame."""
        return rows.index_select(0, self.bank)

    def stretches(self, tokens: Iterable[Ints]) -> Stretches:
        """Batch the stretches of tokens that attend to each other.

        Args:
            tokens: for each length `L`, `[F, L]` int64: the tokens of the stretches of that length. Each
                computed token is in one stretch.
        """
        device = self.at.device
        batches: list[Batch] = []
        order = np.empty(len(self.at), dtype=np.int64)
        seen = 0
        for each in tokens:
            computed = self.computed[each]
            counts = computed.sum(1)
            # Sort the computed tokens of each stretch before the others, in their order.
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
    """Group stretches by their number of computed tokens; those that are computed whole are apart.

    Args:
        counts: `[F]`: number of computed tokens of each stretch; stretches without any are left out.
        length: length of these stretches.

    Returns:
        Indices of the stretches of each group.
    """
    level = -(-counts * LEVELS // length) + (counts == length)
    together = max(1, KEYS_AT_ONCE // length)
    found = []
    for each in np.unique(level[counts > 0]):
        at = np.flatnonzero(level == each)
        at = at[counts[at].argsort(kind="stable")]
        found += [at[i : i + together] for i in range(0, len(at), together)]
    return found
