"""Wraps `generate` of an attached model, which knows of a prompt what no single forward knows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import Cache, StaticCache

from holitom.models.interface import given_cache
from holitom.runtime import refusals
from holitom.runtime.accounts import Accounts
from holitom.runtime.attached import Attached
from holitom.runtime.cache import Merged
from holitom.runtime.call import Calls, Generating, Kwargs
from holitom.runtime.forward import by_name


class Generation:
    """Functions that run around `generate` and `prepare_inputs_for_generation`.

    Attributes:
        attached: method and model.
        calls: the running calls of each thread.
        accounts: the reports.
    """

    def __init__(self, attached: Attached, calls: Calls, accounts: Accounts) -> None:
        self.attached, self.calls, self.accounts = attached, calls, accounts

    def generate(self, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """Read and check a prompt, then generate: `generate` encodes videos before any forward runs."""
        adapter, calls = self.attached.adapter, self.calls
        calls.settle()  # `generate` counts the columns of a cache before any forward
        depth, outer = len(calls.stack), len(calls.generating)
        this = Generating()
        if encoded := kwargs.get("mm_encoder_outputs"):
            # transformers repeats rows in these, and the caller's serve later questions too
            copies = {kind: copy.copy(each) for kind, each in encoded.items()}
            kwargs = {**kwargs, "mm_encoder_outputs": copies}
        if adapter.brings(kwargs):
            ids = self._new_ids(args, kwargs)
            if ids is not None:
                if kwargs.get(adapter.pixels_name) is not None:
                    adapter.check_prompt(ids, kwargs)
                chunked = self._chunked(args, kwargs)
                this.ids, this.holds = ids, not chunked or bool(adapter.placeholders(ids).any())
                if chunked and this.holds:
                    args, kwargs = _whole(args, kwargs)
        calls.generating.append(this)
        try:
            output = own(*args, **kwargs)
            if calls.running.closed and this.ids is not None and this.holds:
                _check_attached(this, output, _ids(args, kwargs))
            return output
        finally:
            del calls.generating[outer:]
            calls.cut(depth)  # an interrupt (Ctrl-C) runs no hooks
            if this.stepping is not None:
                self.accounts.stepped(this.stepping, this.stepping.told.offset.device)

    def prepare(self, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """Prepare the inputs of a forward without the 4D mask that transformers makes for static caches.

        That mask has the caller's columns. Where videos merge, the forward gets the caller's own mask
        `[B, seen + L]`, and a step of one token a row gets none.
        """
        inputs = own(*args, **kwargs)
        around = self.calls.around
        given = by_name(own, args, kwargs)
        cache = given_cache(given)
        around.prepares = around.prepared = True
        around.cached = cache is not None
        if not isinstance(cache, StaticCache):
            return inputs
        if isinstance(cache, Merged) and cache.holds:
            ids = inputs.get("input_ids")
            step = ids is not None and ids.shape[1] == 1
            inputs["attention_mask"] = None if step else given.get("attention_mask")
            around.stepping = cache if step else None
        elif self.attached.adapter.brings(inputs):
            inputs["attention_mask"] = given.get("attention_mask")
        return inputs

    def _new_ids(self, args: tuple[Any, ...], kwargs: Kwargs) -> Tensor | None:
        """Return the ids `[B, L]` of the part of a prompt that is not in the cache; None without ids."""
        cache = given_cache(kwargs)
        seen = int(cache.get_seq_length()) if isinstance(cache, Cache) else 0
        ids = _ids(args, kwargs)
        embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        if embeds is not None:
            return self.attached.ids_of(embeds[:, seen:])
        if ids is None:
            return None
        columns = mask.shape[1] if isinstance(mask, Tensor) and mask.dim() == 2 else 0
        # A wider mask has the columns of the cache too, and all ids are new.
        return ids if columns > ids.shape[1] else ids[:, seen:]

    def _chunked(self, args: tuple[Any, ...], kwargs: Kwargs) -> bool:
        """Tell whether `generate` would run the prompt in chunks."""
        config, model = _config(args, kwargs), self.attached.adapter.model
        sizes = [kwargs.get("prefill_chunk_size")]
        if "prefill_chunk_size" not in kwargs:
            sizes = [getattr(each, "prefill_chunk_size", None) for each in (config, model.generation_config)]
        return any(size is not None for size in sizes)


def _check_attached(this: Generating, output: Any, ids: Tensor | None) -> None:
    """Refuse the `output` of a call of `generate` if a step of it ran without the method.

    A cache of merged tokens refuses such a step itself. Without one, a step adds at most a token to each row,
    so that not all steps had the method where there are more new tokens.
    """
    new = getattr(output, "sequences", output).shape[1] - (0 if ids is None else ids.shape[1])
    if new > this.steps and not (this.cached and this.steps):
        raise refusals.MEANWHILE.error()


def _ids(args: tuple[Any, ...], kwargs: Kwargs) -> Tensor | None:
    """Return the ids `[B, L]` among the arguments of `generate`; None without ids."""
    ids: Tensor | None = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    return ids


def _config(args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Return the generation config among the arguments of `generate`; None without one."""
    return args[1] if len(args) > 1 else kwargs.get("generation_config")


def _whole(args: tuple[Any, ...], kwargs: Kwargs) -> tuple[tuple[Any, ...], Kwargs]:
    """Return the arguments of `generate` without `prefill_chunk_size`.

    A prompt with videos runs in one piece: a chunk would hold a part of a video, and the question that ranks
    the video's tokens is in the last chunk.
    """
    config = _config(args, kwargs)
    if config is not None:
        config = copy.deepcopy(config)
        config.prefill_chunk_size = None
        if len(args) > 1:
            args = (args[0], config, *args[2:])
        else:
            kwargs = {**kwargs, "generation_config": config}
    return args, {**kwargs, "prefill_chunk_size": None}
