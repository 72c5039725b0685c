"""The key-value cache of a merged prompt: what callers count and what the layers hold are two things."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from holitom.errors import UnsupportedUsageError
from holitom.runtime.levels import Levels


@dataclass(frozen=True)
class CacheRecord:
    """What a cache's layers hold, next to what its caller has sent.

    Attributes:
        seen: columns that the caller has sent so far; `generate` slices its ids by this.
        position: `[B]` int64: position id of each row's next token.
        numbered: `[B]` bool: rows whose next tokens count on from `position`, whatever position ids the
            caller gives them; None: all.
        levels: the columns that each level of layers holds.
        tail: how many of the latest columns stand one to one in every layer, so that they can be cropped.
        settled: False between the prefill that merged inside the language model and the step after it.
    """

    seen: int
    position: Tensor
    numbered: Tensor | None
    levels: Levels
    tail: int
    settled: bool = True

    def select(self, rows: Tensor) -> CacheRecord:
        """The record of `rows` `[b]` of the batch, in that order."""
        at = rows.to(self.position.device)
        numbered = None if self.numbered is None else self.numbered.index_select(0, at)
        position = self.position.index_select(0, at)
        return replace(self, position=position, numbered=numbered, levels=self.levels.select(rows))

    def cropped(self, count: int) -> CacheRecord:
        """The record without the latest `count` columns."""
        return replace(
            self,
            seen=self.seen - count,
            position=self.position - count,
            levels=self.levels.cropped(count),
            tail=self.tail - count,
        )


class MergedCache(DynamicCache):
    """A `DynamicCache` that was filled with merged tokens.

    A cache becomes one in place (`adopt`), so the object that the caller holds stays the same and can be
    passed to the next turn. `get_seq_length` then answers in the caller's columns, as `generate` needs,
    except while the language model runs, whose masks need the truth.
    """

    record: CacheRecord | None
    open: bool

    @staticmethod
    def check(cache: Cache) -> None:
        """Raise `UnsupportedUsageError` unless `cache` is a plain `DynamicCache`."""
        if type(cache) is not DynamicCache or any(cache.is_sliding):
            raise UnsupportedUsageError(
                f"holitom cannot merge into a {type(cache).__name__}; use the default DynamicCache "
                "(cache_implementation=None), whose layers can hold different numbers of tokens"
            )

    @staticmethod
    def adopt(cache: Cache) -> MergedCache:
        """Turn `cache`, a plain `DynamicCache`, into a `MergedCache` in place."""
        if isinstance(cache, MergedCache):
            return cache
        cache.__class__ = MergedCache
        merged: Any = cache
        merged.record = None
        merged.open = False
        adopted: MergedCache = merged
        return adopted

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._check_open()
        states: tuple[Tensor, Tensor] = super().update(*args, **kwargs)
        return states

    def get_conv_state(self, *args: Any, **kwargs: Any) -> Tensor | None:
        self._check_open()  # a recurrent layer asks for its state before it writes over it
        state: Tensor | None = super().get_conv_state(*args, **kwargs)
        return state

    def _check_open(self) -> None:
        if self.record is not None and not self.open:
            raise UnsupportedUsageError(
                "this cache holds merged tokens, and the model that would extend it has no method attached; "
                "attach one again, or start from a new cache"
            )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        if self.record is not None and not self.open:
            return self.record.seen
        return int(super().get_seq_length(layer_idx))

    def held(self, layer: int) -> int | None:
        """How many columns `layer` holds; None where it holds a recurrent state instead."""
        dynamic = self.layers[layer] if layer < len(self.layers) else None
        if dynamic is None:
            return 0
        return int(dynamic.get_seq_length()) if isinstance(dynamic, DynamicLayer) else None

    def keys(self, layer: int) -> Tensor:
        """The keys `[B, kv_heads, held, d]` of `layer`."""
        dynamic: Any = self.layers[layer]
        keys: Tensor = dynamic.keys
        return keys

    def reset(self) -> None:
        Cache.reset(self)
        self.record = None

    def crop(self, tokens_to_remove: int) -> None:
        record = self.record
        if record is None:
            super().crop(tokens_to_remove)
            return
        count = record.seen - tokens_to_remove if tokens_to_remove > 0 else -tokens_to_remove
        if not record.settled:
            raise UnsupportedUsageError(
                "cannot crop a prompt that was just merged inside the language model, as assisted decoding "
                "does; generate without assistant or prompt lookup, or use a method without inner merging"
            )
        if count > record.tail:
            raise UnsupportedUsageError(
                f"cannot crop {count} tokens: only the latest {record.tail} came after the merged video"
            )
        if count <= 0:
            return
        super().crop(-count)
        self.record = record.cropped(count)

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        if self.record is not None:
            self.record = self.record.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        if self.record is not None:
            rows = torch.arange(self.record.position.shape[0], device=indices.device)[indices]
            self.record = self.record.select(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.record is not None:
            rows = torch.arange(self.record.position.shape[0])
            self.record = self.record.select(rows.repeat_interleave(repeats))


def layer_bytes(layer: Any) -> int:
    """Bytes of what one layer of a cache holds: keys and values, or the states of a recurrent layer."""
    held = (
        [layer.keys, layer.values]
        if isinstance(layer, DynamicLayer)
        else [*layer.conv_states.values(), *layer.recurrent_states.values()]
    )
    return sum(tensor.nbytes for tensor in held if tensor is not None)


def unmerged_bytes(cache: Cache) -> int:
    """Bytes that `cache` would hold if nothing had merged."""
    holding = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    states = sum(layer_bytes(layer) for layer in cache.layers if not isinstance(layer, DynamicLayer))
    per_column = layer_bytes(holding[0]) // max(1, int(holding[0].get_seq_length()))
    return states + per_column * len(holding) * int(cache.get_seq_length())
