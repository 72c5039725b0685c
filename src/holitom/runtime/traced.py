"""Defines what hooks do in a forward that `torch.compile` traces.

A traced forward keeps no state of its call if nothing merges in it: it is the stock model's, or a step of one
token a row over a static cache, whose masks and positions depend on the cache alone. In such a forward the
hooks only compute on arguments, which a graph can contain; in any other forward they break the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import StaticLayer

from holitom.models.base import Adapter
from holitom.models.interface import given_cache
from holitom.runtime.cache import Merged
from holitom.runtime.call import Calls, Kwargs
from holitom.runtime.static import MergedStaticCache


class Traced:
    """Recognises traced forwards that keep no state.

    Attributes:
        adapter: the model.
        running: the calls, of all threads, whose state is kept.
    """

    def __init__(self, adapter: Adapter, calls: Calls) -> None:
        self.adapter, self.running = adapter, calls.running

    @property
    def idle(self) -> bool:
        """Whether the present forward is traced and keeps no state."""
        return torch.compiler.is_compiling() and not self.running.frames

    def stateless(self, args: tuple[Any, ...], kwargs: Kwargs) -> bool:
        """Tell whether the forward of model, trunk or language model that begins needs no state.

        Args:
            args: its arguments by place.
            kwargs: its arguments by name.
        """
        if not self.idle or args:
            return False
        brings = self.adapter.brings(kwargs)
        cache = given_cache(kwargs)
        if brings or not isinstance(cache, Merged) or not cache.holds:
            return not brings
        ids = kwargs.get("input_ids")
        columns = kwargs["inputs_embeds"] if ids is None else ids
        return isinstance(cache, MergedStaticCache) and columns.shape[1] == 1

    def step(self, kwargs: Kwargs) -> Any:
        """Return the language model's arguments in such a forward; None where they stay."""
        cache = given_cache(kwargs)
        if isinstance(cache, MergedStaticCache) and cache.holds:
            return (), {**kwargs, **cache.step(self.adapter, kwargs)}
        return None


def stepped(layer: int, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Return the arguments of decoder layer `layer` in a step over a static cache; None where they stay.

    A layer with a recurrent state keeps its arguments, because a step has no padding.
    """
    cache = given_cache(kwargs)
    if not isinstance(cache, MergedStaticCache) or not cache.masks:
        return None
    level = cache.level(layer) if isinstance(cache.layers[layer], StaticLayer) else 0
    return (args, {**kwargs, "attention_mask": cache.masks[level - 1]}) if level else None
