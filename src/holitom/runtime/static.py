"""Static caches of merged prompts, whose decoding steps change no value on the host.

A static cache is made for all columns that the caller will ever send. A merged one allocates, for each level
of layers, the columns that the level will hold. Its record stays the same while text is decoded: counts are
relative to the cache's own count, which is on the device, and masks have a column for every allocated place.
A step is therefore compiled once and synchronises no device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache
from transformers.cache_utils import Cache, StaticLayer
from transformers.masking_utils import create_causal_mask

from holitom.models.base import Adapter
from holitom.models.interface import mask_cache_name
from holitom.runtime import refusals
from holitom.runtime.cache import CacheRecord, Merged
from holitom.runtime.levels import Levels
from holitom.runtime.positions import callers_positions

Kwargs = dict[str, Any]

ROUND = 64
"""Levels are allocated in multiples of this many columns, so that prompts of like lengths share a graph."""


@dataclass(frozen=True)
class Constants:
    """A `CacheRecord` relative to `count`, the number of columns that the cache itself counts.

    Attributes:
        gone: `seen - count`.
        offset: `[B]` int64: `position - count`.
        numbered: as in `CacheRecord`.
        starts: first layer of each level.
        fewer: for each level, `count - held`.
        masks: for each level `[B, allocated]` bool, False at padding, True at places still empty; None
            where no row is padded.
        floor: `count - tail`.
    """

    gone: int
    offset: Tensor
    numbered: Tensor | None
    starts: tuple[int, ...]
    fewer: tuple[int, ...]
    masks: tuple[Tensor | None, ...]
    floor: int

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.offset)

    @classmethod
    def of(cls, record: CacheRecord, level: int, allocated: list[int]) -> Constants:
        """Make the constants of a record.

        Args:
            record: the cache's record.
            level: the level whose columns the cache counts.
            allocated: columns of each level.
        """
        levels = record.levels
        count = levels.held[level]
        masks = []
        for mask, columns in zip(levels.masks, allocated, strict=True):
            free = 0 if mask is None else columns - mask.shape[1]
            masks.append(None if mask is None else torch.nn.functional.pad(mask, (0, free), value=True))
        return cls(
            gone=record.seen - count,
            offset=record.position - count,
            numbered=record.numbered,
            starts=levels.starts,
            fewer=tuple(count - held for held in levels.held),
            masks=tuple(masks),
            floor=count - record.tail,
        )

    def record(self, count: int) -> CacheRecord:
        """Return the record of a cache that counts `count` columns."""
        held = tuple(count - fewer for fewer in self.fewer)
        masks = (
            None if mask is None else mask[:, :columns]
            for mask, columns in zip(self.masks, held, strict=True)
        )
        return CacheRecord(
            seen=count + self.gone,
            position=self.offset + count,
            numbered=self.numbered,
            levels=Levels(self.starts, held, tuple(masks)),
            tail=count - self.floor,
        )

    def select(self, rows: Tensor) -> Constants:
        """Select the rows `rows` `[b]` of the batch, in that order."""

        def picked(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.index_select(0, rows.to(values.device))

        return replace(
            self,
            offset=self.offset.index_select(0, rows.to(self.offset.device)),
            numbered=picked(self.numbered),
            masks=tuple(map(picked, self.masks)),
        )


class MergedStaticCache(Merged, StaticCache):
    """A `StaticCache` that was filled with merged tokens.

    Attributes:
        longest: number of the caller's columns that it was made for.
        masks: for each level after the first, the mask of the step that is running; empty between steps.
        named: the name of the cache among the arguments of transformers' mask function.
    """

    longest: int
    masks: tuple[Any, ...]
    named: str

    @property
    def count(self) -> Any:
        """Number of columns in the first layer that attends, as a tensor; 0 before it has any."""
        return Cache.get_seq_length(self)

    @property
    def seen(self) -> Any:
        return self.count + self.told.gone

    @property
    def record(self) -> CacheRecord | None:
        """What the layers hold. Reading it synchronises the device."""
        constants: Constants | None = self.told
        return None if constants is None else constants.record(int(self.count))

    @record.setter
    def record(self, record: CacheRecord | None) -> None:
        if record is None:
            self.told = None
            return
        starts = record.levels.starts
        ends = (*starts[1:], len(self.layers))
        places = [layer.max_cache_len if isinstance(layer, StaticLayer) else 0 for layer in self.layers]
        first = next(index for index, columns in enumerate(places) if columns)
        allocated = [max(places[start:end]) for start, end in zip(starts, ends, strict=True)]
        allocated = [max(own, held) for own, held in zip(allocated, record.levels.held, strict=True)]
        self.told = Constants.of(record, record.levels.at(first), allocated)

    def allot(self, layers: range, held: int, seen: int) -> None:
        if seen > self.longest:
            raise refusals.SHORT.error(f"{self.longest} columns for {seen}")
        wanted = held + self.longest - seen
        for layer in (self.layers[index] for index in layers):
            if isinstance(layer, StaticLayer) and not layer.is_initialized:
                layer.max_cache_len = min(self.longest, -(-wanted // ROUND) * ROUND)

    def reset(self) -> None:
        for layer in self.layers:
            if isinstance(layer, StaticLayer) and layer.max_cache_len != self.longest:
                layer.keys = layer.values = None
                layer.is_initialized, layer.max_cache_len = False, self.longest
        super().reset()

    def abandon(self) -> None:
        super().abandon()
        self.masks = ()

    def level(self, layer: int) -> int:
        """The index of the level that `layer` belongs to."""
        level: int = sum(start <= layer for start in self.told.starts) - 1
        return level

    def step(self, adapter: Adapter, kwargs: Kwargs) -> Kwargs:
        """Begin a step of one token a row; return the arguments of the language model's forward that change.

        Args:
            adapter: the model.
            kwargs: arguments of that forward, by name.
        """
        constants: Constants = self.told
        self.open = True
        embeds: Tensor = kwargs["inputs_embeds"]
        on = (self.count + constants.offset)[:, None]
        if adapter.keeps_positions and constants.numbered is not None:
            own = callers_positions(kwargs.get("position_ids"), embeds, self.seen)
            on = torch.where(constants.numbered[:, None], on, own)
        language: Any = adapter.language_model
        ends = (*constants.starts[1:], len(adapter.layers))
        masks = []
        for start, end, mask in list(zip(constants.starts, ends, constants.masks, strict=True))[1:]:
            attending = [layer for layer in range(start, end) if adapter.attends(layer)]
            given: Kwargs = {"config": language.config, "inputs_embeds": embeds, "attention_mask": mask}
            given |= {self.named: self, "position_ids": None}
            masks.append(create_causal_mask(**given, layer_idx=attending[0]) if attending else None)
        self.masks = tuple(masks)
        return {"attention_mask": constants.masks[0], "position_ids": on}

    def end_step(self) -> None:
        """Close the cache after a step."""
        self.open, self.masks = False, ()


def adopt_static(cache: Any) -> MergedStaticCache:
    """Turn `cache`, a plain `StaticCache`, into a `MergedStaticCache` in place."""
    first = next(layer for layer in cache.layers if isinstance(layer, StaticLayer))
    cache.__class__ = MergedStaticCache
    cache.told, cache.open, cache.spoilt = None, False, False
    cache.masks, cache.longest = (), first.max_cache_len
    cache.named = mask_cache_name(create_causal_mask)
    adopted: MergedStaticCache = cache
    return adopted
