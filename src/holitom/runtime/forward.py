"""One forward of the language model with merged tokens, from its first layer to its last."""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask, create_recurrent_attention_mask

from holitom.models.base import Adapter
from holitom.ops.attention import query_attention
from holitom.runtime.cache import CacheRecord, MergedCache
from holitom.runtime.layout import Layout
from holitom.runtime.report import Mark, Report, mark

if TYPE_CHECKING:
    from holitom.contract import InnerStage

Kwargs = dict[str, Any]


def by_name(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Kwargs:
    """All arguments of a call by name."""
    if not args:
        return kwargs
    return {**inspect.signature(function).bind_partial(*args).arguments, **kwargs}


@dataclass
class Forward:
    """What holds for one forward.

    Attributes:
        adapter: the model.
        cache: the cache that it fills; None without one.
        columns: the caller's columns in this forward.
        seen: the caller's columns before it.
        position: `[B]` int64: each row's next position id after it.
        numbered: rows that count on from it, see `CacheRecord`.
        starts: first layer of each level of layers, see `CacheRecord`.
        masks: mask of each level. A level's mask grows by this forward's columns when its first layer comes.
        layout: where tokens are now; None while they stand in the caller's columns.
        last_real: each row's last column that holds a token (with a layout only).
        tail: how many of the latest columns stand one to one in every layer afterwards.
        stages: what merges inside the language model in this forward, by layer.
        ranked_by: for each of these layers, the one whose attention ranks: itself or one before it.
        query: how far from the right the query stands that these ask.
        numbers: for each row `[V]`: which of all videos' sent tokens its video tokens are.
        streams: by layer, `[n, D]` ragged: what is added to what leaves it, behind the first level.
        report: where to report, if this forward brings new videos.
        overrides: what layers of the current level get in the place of the language model's own arguments.
        recurrent: of these, what layers that do not attend get besides: their mask `[B, width]`.
    """

    adapter: Adapter
    cache: MergedCache | None
    columns: int
    seen: int
    position: Tensor
    starts: tuple[int, ...]
    masks: list[Tensor | None]
    layout: Layout | None = None
    last_real: list[int] = field(default_factory=list)
    tail: int = 0
    stages: Mapping[int, InnerStage] = field(default_factory=dict)
    ranked_by: Mapping[int, int] = field(default_factory=dict)
    query: int = 0
    numbers: list[Tensor] = field(default_factory=list)
    numbered: Tensor | None = None
    streams: dict[int, Tensor] = field(default_factory=dict)
    report: Report | None = None
    began: Mark = 0.0
    inner_spans: list[tuple[Mark, Mark]] = field(default_factory=list)
    _attention: Tensor | None = None
    overrides: Kwargs = field(default_factory=dict)
    recurrent: Kwargs = field(default_factory=dict)

    def extend(self, level: int, added: Tensor | None, columns: int) -> None:
        """Add columns to the mask of `level`: `added` `[B, columns]`, or None where all are tokens."""
        self.masks[level] = self._extended(level, added, columns)

    def _extended(self, level: int, added: Tensor | None, columns: int) -> Tensor | None:
        mask, layer = self.masks[level], self.starts[level]
        if mask is None and added is None:
            return None
        rows, device = self.position.shape[0], self.position.device
        held = 0 if self.cache is None else self.cache.held(layer)
        if mask is None:
            mask = torch.ones(rows, held, dtype=torch.bool, device=device)
        if added is None:
            added = torch.ones(rows, columns, dtype=torch.bool, device=device)
        return torch.cat([mask.to(device), added.to(device)], dim=1)

    def spare(self, rows: list[int]) -> None:
        """Keep the last video token of `rows` out of inner merging: it ends the prompt and asks."""
        assert self.layout is not None
        visual = [v[:-1] if row in rows else v for row, v in enumerate(self.layout.visual)]
        self.layout = replace(self.layout, visual=visual)
        self.numbers = [own[:-1] if row in rows else own for row, own in enumerate(self.numbers)]

    def changes(self, layer: int) -> bool:
        """Whether `layer` gets anything but what the language model passes it."""
        return bool(self.overrides) or (len(self.starts) > 1 and layer >= self.starts[1])

    def given_to(self, layer: int) -> Kwargs:
        """What `layer` gets in the place of the language model's own arguments."""
        return self.overrides if self.adapter.attends(layer) else {**self.overrides, **self.recurrent}

    def leave_gaps(self) -> Kwargs:
        """Keep gaps in the position ids from being taken for packed sequences; what the language model gets.

        Kernels are to see no ids (the rotary embeddings carry them), and without cache a mask says that all
        are one sequence.
        """
        self.overrides["position_ids"] = None
        if self.cache is not None or self.masks[0] is not None:
            return {}
        assert self.layout is not None
        rows, device = self.position.shape[0], self.position.device
        return {"attention_mask": torch.ones(rows, self.layout.width, dtype=torch.bool, device=device)}

    def enter_level(self, index: int, kwargs: Kwargs) -> Tensor:
        """The hidden states that enter layer `index`, first of its level, whose `overrides` are set."""
        hidden: Tensor = kwargs["hidden_states"]
        if index in self.stages:
            hidden = self._merge(index, hidden, {**kwargs, **self.overrides}["position_embeddings"])
        level = self.starts.index(index)
        if self.layout is not None:
            self.extend(level, self.layout.mask, self.layout.width)
        language: Any = self.adapter.language_model
        given = {
            "config": language.config,
            "inputs_embeds": hidden,
            "attention_mask": self.masks[level],
            "past_key_values": self.cache,
        }
        end = self.starts[level + 1] if level + 1 < len(self.starts) else len(self.adapter.layers)
        attending = [layer for layer in range(index, end) if self.adapter.attends(layer)]
        if attending:
            mask = create_causal_mask(**given, position_ids=None, layer_idx=attending[0])
            self.overrides["attention_mask"] = mask
        if len(attending) < end - index:
            self.recurrent["attention_mask"] = create_recurrent_attention_mask(**given)
        # As in `leave_gaps`.
        self.overrides["position_ids"] = None
        return hidden

    def leave_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """The hidden states that leave `layer`, with what its stream adds."""
        if layer not in self.streams:
            return hidden
        assert self.layout is not None
        return hidden + self.layout.pad(self.streams[layer]).to(hidden)

    def leave_attention(self, layer: int, attention: nn.Module, kwargs: Kwargs) -> None:
        """Read what the next merge needs, before the cache of `layer` is left behind."""
        hidden, rotary = kwargs["hidden_states"], kwargs["position_embeddings"]
        if self.cache is None:
            key = self.adapter.key(attention, hidden, rotary)
        else:
            key = self.cache.keys(layer).to(hidden.device)
        visible = self.masks[bisect_right(self.starts, layer) - 1]
        self._attention = self._asked(attention, hidden, rotary, key, visible)

    def _own_attention(self, index: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """The attention that layer `index` is about to pay to `hidden`, as `leave_attention` reads it."""
        layer: Any = self.adapter.layers[index]
        attention = layer.self_attn
        with torch.no_grad():
            hidden = self.adapter.attention_input(layer, hidden)
            key = self.adapter.key(attention, hidden, rotary)
            if self.cache is not None and self.cache.held(index):
                key = torch.cat([self.cache.keys(index).to(key), key], dim=2)
            assert self.layout is not None
            visible = self._extended(self.starts.index(index), self.layout.mask, self.layout.width)
            return self._asked(attention, hidden, rotary, key, visible)

    def _asked(
        self,
        attention: nn.Module,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        key: Tensor,
        visible: Tensor | None,
    ) -> Tensor:
        """The query's attention to this forward's tokens `[B, width]`, among all keys that it may see.

        Args:
            attention: attention module of one layer.
            hidden: `[B, width, D]`: its input.
            rotary: cosines and sines of its columns.
            key: `[B, kv_heads, S, d]`: keys of past and present columns.
            visible: `[B, S]` bool, or None: all are tokens.
        """
        width, (cos, sin) = hidden.shape[1], rotary
        at = slice(width - 1 - self.query, width - self.query)
        query = self.adapter.query(attention, hidden[:, at], (cos[:, at], sin[:, at]))[:, :, 0]
        if self.query:
            before = torch.arange(key.shape[2], device=key.device) < key.shape[2] - self.query
            visible = before.expand(key.shape[0], -1) if visible is None else visible & before
        scale: Any = attention.scaling
        return query_attention(query, key, scale, visible)[:, -width:]

    def _merge(self, index: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """The hidden states that enter layer `index`, each row's video tokens merged."""
        layout, stage = self.layout, self.stages[index]
        began = mark(hidden.device)
        own = self.ranked_by[index] == index
        attention = self._own_attention(index, hidden, rotary) if own else self._attention
        assert layout is not None
        assert attention is not None
        ragged, scores = layout.unpad(hidden), layout.unpad(attention)
        kept, features = [], []
        for visual in layout.visual:
            if len(visual):
                chosen, merged = stage(ragged.index_select(0, visual), scores.index_select(0, visual))
                features.append(merged.to(ragged.dtype))
            kept.append(chosen if len(visual) else visual)
        stand = [visual.index_select(0, chosen) for visual, chosen in zip(layout.visual, kept, strict=True)]
        ragged = ragged.index_copy(0, torch.cat(stand), torch.cat(features))
        self.layout, order = layout.keep(kept)
        self.overrides["position_embeddings"] = tuple(
            self.layout.pad(layout.unpad(part).index_select(0, order)) for part in rotary
        )
        self._attention = self.layout.pad(scores.index_select(0, order))  # the next merge may have no newer
        hidden = self.layout.pad(ragged.index_select(0, order))
        # A token that takes in others goes on with the streams of its own place.
        self.streams = {at: stream.index_select(0, order) for at, stream in self.streams.items()}
        self.numbers = [own.index_select(0, chosen) for own, chosen in zip(self.numbers, kept, strict=True)]
        self.inner_spans.append((began, mark(hidden.device)))
        if self.report is not None:
            numbers = torch.cat(self.numbers)
            for video in self.report.videos:
                video.inner[index] = numbers
        return hidden

    def restore(self, hidden: Tensor, logits_to_keep: Any) -> Tensor:
        """Final hidden states in the caller's columns (only the last one where no other is asked for)."""
        if self.layout is None:
            return hidden
        if isinstance(logits_to_keep, int) and logits_to_keep == 1:
            return hidden[:, -1:]
        return self.layout.restore(hidden, self.columns, self.last_real)

    def remember(self) -> None:
        """Write into the cache's record what it holds now."""
        if self.cache is not None:
            self.cache.record = CacheRecord(
                seen=self.seen + self.columns,
                position=self.position,
                numbered=self.numbered,
                starts=self.starts,
                masks=self.masks,
                tail=self.tail,
                settled=not self.stages,
            )
