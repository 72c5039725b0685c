"""Run one forward of the language model with merged tokens, from its first layer to its last."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask, create_recurrent_attention_mask

from holitom.models.base import Adapter
from holitom.models.interface import interface_error, mask_cache_name
from holitom.runtime.cache import Merged
from holitom.runtime.inner import InnerMerge
from holitom.runtime.layout import Layout
from holitom.runtime.levels import Levels
from holitom.runtime.plan import Plan

Kwargs = dict[str, Any]


def by_name(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Kwargs:
    """Return all arguments of a call by name."""
    if not args:
        return kwargs
    return {**inspect.signature(function).bind_partial(*args).arguments, **kwargs}


@dataclass
class Forward:
    """A running forward: its plan, and the state that changes from level to level of its layers.

    Attributes:
        adapter: the model's adapter.
        plan: the plan, made before the first layer.
        cache: the cache that the forward fills; None without one.
        inner: the inner stages of this forward; None where none merges.
        layout: layout of the tokens that are left; None: they stand in the caller's columns.
        levels: the levels of layers; each grows by this forward's columns before its first layer runs.
        streams: by layer, `[n, D]` ragged: the stream that holitom adds to the layer's output, from the first
            inner stage on; the language model adds those of earlier layers.
        overrides: arguments that layers of the current level get in the place of the language model's own.
        recurrent: arguments that layers without attention get besides `overrides`.
    """

    adapter: Adapter
    plan: Plan
    cache: Merged | None
    inner: InnerMerge | None
    layout: Layout | None = field(init=False)
    levels: Levels = field(init=False)
    streams: dict[int, Tensor] = field(init=False)
    overrides: Kwargs = field(init=False, default_factory=dict)
    recurrent: Kwargs = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.layout, self.levels = self.plan.layout, self.plan.record.levels
        first = len(self.plan.streams) if self.inner is None else min(self.inner.stages)
        self.streams = dict(list(enumerate(self.plan.streams))[first:])
        if self.plan.gaps:
            # Kernels take gaps in position ids for packed sequences; the rotary embeddings carry the ids.
            self.overrides["position_ids"] = None

    def changes(self, layer: int) -> bool:
        """Whether `layer` gets other arguments than the language model passes it."""
        return bool(self.overrides) or (len(self.levels.starts) > 1 and layer >= self.levels.starts[1])

    def given_to(self, layer: int) -> Kwargs:
        """Return the arguments that `layer` gets in the place of the language model's own."""
        return self.overrides if self.adapter.attends(layer) else {**self.overrides, **self.recurrent}

    def allot(self, level: int) -> None:
        """Allot the columns that the layers of `level` will hold."""
        if self.cache is not None:
            layers = self.levels.layers(level, len(self.adapter.layers))
            self.cache.allot(layers, self.levels.held[level], self.plan.record.seen)

    def enter_level(self, layer: int, kwargs: Kwargs) -> Tensor:
        """Enter a level: merge if a stage acts here, and set the `overrides` of the level.

        Args:
            layer: first layer of the level.
            kwargs: arguments of the layer, by name.

        Returns:
            `[B, width, D]`: hidden states that enter the layer.
        """
        hidden: Tensor = kwargs["hidden_states"]
        self.layout = None if self.layout is None else self.layout.to(hidden.device)
        level = self.levels.starts.index(layer)
        if self.inner is not None:
            if layer in self.inner.stages:
                hidden = self._merge(self.inner, layer, hidden, {**kwargs, **self.overrides})
            assert self.layout is not None
            self.levels = self.levels.grown(level, self.layout.mask, self.layout.width)
            self.allot(level)
        layers = self.levels.layers(level, len(self.adapter.layers))
        attending = list(filter(self.adapter.attends, layers))
        if attending:
            self.overrides["attention_mask"] = self._mask(create_causal_mask, hidden, level, attending[0])
        if len(attending) < len(layers):
            self.recurrent["attention_mask"] = self._mask(create_recurrent_attention_mask, hidden, level)
        self.overrides["position_ids"] = None  # as in `__post_init__`
        return hidden

    def _mask(
        self, create: Callable[..., Any], hidden: Tensor, level: int, attending: int | None = None
    ) -> Any:
        """Make the mask of the layers of `level` by transformers' function `create`."""
        language: Any = self.adapter.language_model
        given = {
            "config": language.config,
            "inputs_embeds": hidden,
            "attention_mask": self.levels.masks[level],
            mask_cache_name(create): self.cache,
        }
        if attending is not None:
            given |= {"position_ids": None, "layer_idx": attending}
        return create(**given)

    def leave_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Add the stream of `layer` to its output `hidden` `[B, width, D]`."""
        if layer not in self.streams:
            return hidden
        assert self.layout is not None
        self.layout = self.layout.to(hidden.device)
        return hidden + self.layout.pad(self.streams[layer].to(hidden.device)).to(hidden)

    def leave_attention(self, layer: int, attention: nn.Module, kwargs: Kwargs) -> None:
        """Read the attention that the next stage ranks by, while the keys of `layer` are at hand."""
        if self.inner is None:
            return
        hidden, rotary = kwargs["hidden_states"], kwargs["position_embeddings"]
        if self.cache is None:
            key = self.adapter.key(attention, hidden, rotary)
        else:
            self._check_held(self.cache, layer)
            held = self.levels.held[self.levels.at(layer)]
            key = self.cache.keys(layer)[:, :, :held].to(hidden.device)
        visible = self.levels.masks[self.levels.at(layer)]
        self.inner.attention = self._asked(self.inner, attention, hidden, rotary, key, visible)

    def _own_attention(self, inner: InnerMerge, index: int, hidden: Tensor, rotary: Any) -> Tensor:
        """Compute the attention that layer `index` will pay to its input, as `leave_attention` does."""
        layer: Any = self.adapter.layers[index]
        with torch.no_grad():
            hidden = self.adapter.attention_input(layer, hidden)
            key = self.adapter.key(layer.self_attn, hidden, rotary)
            level = self.levels.starts.index(index)
            held = self.levels.held[level]
            if self.cache is not None and held:
                key = torch.cat([self.cache.keys(index)[:, :, :held].to(key), key], dim=2)
            assert self.layout is not None
            visible = self.levels.grown(level, self.layout.mask, self.layout.width).masks[level]
            return self._asked(inner, layer.self_attn, hidden, rotary, key, visible)

    def _asked(
        self,
        inner: InnerMerge,
        attention: nn.Module,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        key: Tensor,
        visible: Tensor | None,
    ) -> Tensor:
        """`InnerMerge.read` for the input `hidden` `[B, width, D]` of decoder attention `attention`."""
        width, (cos, sin) = hidden.shape[1], rotary
        end = width - inner.query_offset
        at = slice(end - inner.asking, end)
        query = self.adapter.query(attention, hidden[:, at], (cos[:, at], sin[:, at]))
        scale: Any = attention.scaling
        visible = None if visible is None else visible.to(key.device)
        return inner.read(query, key, scale, visible, width)

    def _merge(self, inner: InnerMerge, layer: int, hidden: Tensor, kwargs: Kwargs) -> Tensor:
        """Merge each row's video tokens before `layer`; return the hidden states that enter it."""
        rotary = tuple(part.to(hidden.device) for part in kwargs["position_embeddings"])
        own = inner.ranked_by[layer] == layer
        attention = self._own_attention(inner, layer, hidden, rotary) if own else inner.attention
        if attention is None:
            raise interface_error(f"layer {inner.ranked_by[layer]} ran without its attention module")
        assert self.layout is not None
        self.layout, hidden, rotary, order = inner.reduce(
            layer, self.layout, hidden, rotary, attention.to(hidden.device)
        )
        self.overrides["position_embeddings"] = rotary
        # A token that others merge into keeps the streams of its own place.
        self.streams = {
            at: stream.to(hidden.device).index_select(0, order) for at, stream in self.streams.items()
        }
        return hidden

    def check_width(self, hidden: Tensor) -> None:
        """Raise `InterfaceError` unless the first layer gets the columns of the plan, `[B, width, D]`."""
        if hidden.shape[1] != self.plan.width:
            raise interface_error(
                f"the language model's first layer gets {hidden.shape[1]} columns, and merging left "
                f"{self.plan.width}"
            )

    def check_cache(self) -> None:
        """Raise `InterfaceError` unless the layers of the cache hold the columns of the plan."""
        if self.cache is None:
            return
        for layer in range(len(self.adapter.layers)):
            self._check_held(self.cache, layer)

    def _check_held(self, cache: Merged, layer: int) -> None:
        held, wanted = cache.held(layer), self.levels.held[self.levels.at(layer)]
        if held is not None and held != wanted:
            raise interface_error(
                f"layer {layer} of the language model holds {held} tokens in the cache that was handed in, "
                f"and merging left {wanted}: the model has used another cache"
            )

    def restore(self, hidden: Tensor, logits_to_keep: Any) -> Tensor:
        """Return the final hidden states to the caller's columns; only the last where no other is needed."""
        if self.layout is None:
            return hidden
        if isinstance(logits_to_keep, int) and logits_to_keep == 1:
            return hidden[:, -1:]
        layout = self.layout.to(hidden.device)
        return layout.restore(hidden, self.plan.columns, self.plan.last_real)

    def remember(self) -> None:
        """Write the record of the columns that the cache now holds."""
        if self.cache is not None:
            self.cache.record = replace(self.plan.record, levels=self.levels)
