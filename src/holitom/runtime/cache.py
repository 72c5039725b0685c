"""Keep the columns that the caller of a merged prompt counts and those that the layers of its cache hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, StaticLayer

from holitom.ops.host import HOST
from holitom.runtime import refusals
from holitom.runtime.levels import Levels


@dataclass(frozen=True)
class CacheRecord:
    """The columns that a cache's layers hold, and the columns that its caller has sent.

    Attributes:
        seen: number of columns that the caller has sent so far; `generate` slices its ids by this.
        position: `[B]` int64: position id of each row's next token.
        numbered: `[B]` bool: rows whose next tokens count on from `position`, whatever position ids the
            caller gives them; None: all.
        levels: the columns that each level of layers holds.
        tail: number of the latest columns that can be cropped: every layer holds each of them, and the choice
            of video tokens does not depend on them.
    """

    seen: int
    position: Tensor
    numbered: Tensor | None
    levels: Levels
    tail: int

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.position)

    def select(self, rows: Tensor) -> CacheRecord:
        """Return the record of `rows` `[b]` of the batch, in that order."""
        at = rows.to(self.position.device)
        numbered = None if self.numbered is None else self.numbered.index_select(0, at)
        position = self.position.index_select(0, at)
        return replace(self, position=position, numbered=numbered, levels=self.levels.select(rows))

    def cropped(self, count: int) -> CacheRecord:
        """Return the record without the latest `count` columns."""
        return replace(
            self,
            seen=self.seen - count,
            position=self.position - count,
            levels=self.levels.cropped(count),
            tail=self.tail - count,
        )


class Merged(Cache):
    """A cache that was filled with merged tokens.

    A cache becomes one in place (`adopt`), so the object that the caller holds stays the same and can be
    passed to the next turn. `get_seq_length` then returns the number of the caller's columns, as `generate`
    needs; while the language model runs it returns the number that layers hold, as masks need.

    Attributes:
        open: whether the language model is running.
        told: the record, in the form that the class of cache keeps it; None: it holds no merged tokens.
        before: number of columns that every layer held before the forward that first brought merged tokens.
        spoilt: whether a forward has ended early, and some layers may hold columns that others lack.
    """

    open: bool
    told: Any
    before: int
    spoilt: bool

    @property
    def holds(self) -> bool:
        """Whether it holds merged tokens."""
        return self.told is not None

    @property
    def record(self) -> CacheRecord | None:
        """The record; None where the cache holds no merged tokens."""
        record: CacheRecord | None = self.told
        return record

    @record.setter
    def record(self, record: CacheRecord | None) -> None:
        self.told = record

    def allot(self, layers: range, held: int, seen: int) -> None:
        """Make room in `layers` for a prompt of `seen` columns of the caller's, of which `held` are left."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._check_open()
        states: tuple[Tensor, Tensor] = super().update(*args, **kwargs)
        return states

    def get_conv_state(self, *args: Any, **kwargs: Any) -> Tensor | None:
        self._check_open()  # a recurrent layer asks for its state before it writes over it
        state: Tensor | None = super().get_conv_state(*args, **kwargs)
        return state

    def abandon(self) -> None:
        """Close the cache after a forward that has ended early, and remove the columns of that forward.

        A static layer may have written over places, and a recurrent state may have changed, so a cache with
        one of these is spoilt.
        """
        record, self.open = self.record, False
        for index, layer in enumerate(self.layers):
            before = self.before if record is None else record.levels.held[record.levels.at(index)]
            held = self.held(index)
            if held is None:
                self.spoilt = True
            elif held > before:
                _cut(layer, before)

    def _check_whole(self) -> None:
        if self.spoilt:
            raise refusals.SPOILT.error()

    def _check_open(self) -> None:
        self._check_whole()
        if self.holds and not self.open:
            raise refusals.DETACHED.error()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        self._check_whole()
        if self.holds and not self.open:
            return self.seen
        return super().get_seq_length(layer_idx)

    @property
    def seen(self) -> int:
        """The caller's columns; of a static cache a tensor of one number, as where nothing merged."""
        seen: int = self.told.seen
        return seen

    def held(self, layer: int) -> int | None:
        """Number of columns that `layer` holds; None where it holds a recurrent state, or has no count."""
        dynamic = self.layers[layer] if layer < len(self.layers) else None
        if dynamic is None or (isinstance(dynamic, StaticLayer) and not dynamic.is_initialized):
            return 0
        return int(dynamic.get_seq_length()) if isinstance(dynamic, DynamicLayer) else None

    def keys(self, layer: int) -> Tensor:
        """Return the keys `[B, kv_heads, n, d]` of `layer`, of which the first `held` are of tokens."""
        dynamic: Any = self.layers[layer]
        keys: Tensor = dynamic.keys
        return keys

    def reset(self) -> None:
        super().reset()  # type: ignore[no-untyped-call]
        self.told, self.before, self.spoilt = None, 0, False

    def crop(self, tokens_to_remove: int) -> None:
        self._check_whole()
        record = self.record if tokens_to_remove else None  # a static cache would wait for it
        if record is None:
            super().crop(tokens_to_remove)
            return
        count = record.seen - tokens_to_remove if tokens_to_remove > 0 else -tokens_to_remove
        if count > record.tail:
            raise refusals.CROP.error(f"of {count} tokens, the latest {record.tail} can be cropped")
        if count <= 0:
            return
        super().crop(-count)
        self.record = record.cropped(count)

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        if self.holds:
            self.told = self.told.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        if self.holds:
            self.told = self.told.select(torch.arange(self.told.rows, device=indices.device)[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.holds:
            self.told = self.told.select(torch.arange(self.told.rows, device=HOST).repeat_interleave(repeats))


def _cut(layer: Any, columns: int) -> None:
    """Cut a dynamic layer to its first `columns` columns; its keys may have grown without its values."""
    if columns:
        layer.keys, layer.values = layer.keys[..., :columns, :], layer.values[..., :columns, :]
    else:
        layer.keys, layer.values, layer.is_initialized = None, None, False


class MergedCache(Merged, DynamicCache):
    """A `DynamicCache` that was filled with merged tokens."""


def adopt_dynamic(cache: Any) -> MergedCache:
    """Turn `cache`, a plain `DynamicCache`, into a `MergedCache` in place."""
    cache.__class__ = MergedCache
    cache.told, cache.open, cache.spoilt = None, False, False
    adopted: MergedCache = cache
    return adopted


def layer_bytes(layer: Any) -> int:
    """Count the bytes of one layer of a cache: keys and values, or the states of a recurrent layer."""
    held = (
        [layer.keys, layer.values]
        if isinstance(layer, CacheLayerMixin)
        else [*layer.conv_states.values(), *layer.recurrent_states.values()]
    )
    return sum(tensor.nbytes for tensor in held if tensor is not None)


def unmerged_bytes(cache: Cache) -> int:
    """Count the bytes that `cache` would hold without merging; of a static cache, the allocated ones."""
    holding = [layer for layer in cache.layers if isinstance(layer, CacheLayerMixin)]
    states = sum(layer_bytes(layer) for layer in cache.layers if not isinstance(layer, CacheLayerMixin))
    first: Any = holding[0]
    if isinstance(first, StaticLayer):
        held, columns = first.max_cache_len, getattr(cache, "longest", first.max_cache_len)
    else:
        held, columns = int(first.get_seq_length()), int(cache.get_seq_length())
    return states + layer_bytes(first) // max(1, held) * len(holding) * columns
