"""Route each hook of an attached method to the function that does its work, in the order of a forward.

model ------ enter_model                                                           leave
trunk ------ enter_trunk   (encode)                                                leave
language model             enter_language                    leave_language
layers                     enter_layer   leave_attention   leave_layer
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from holitom.models.interface import CACHE_NAMES, given_cache
from holitom.runtime import refusals
from holitom.runtime.accounts import Accounts
from holitom.runtime.attached import Attached
from holitom.runtime.cache import Merged
from holitom.runtime.call import Call, Calls, Kwargs
from holitom.runtime.encoded import Encoded
from holitom.runtime.experts import masks_aside, of_real_tokens
from holitom.runtime.forward import Forward, by_name
from holitom.runtime.merging import go_on, merge
from holitom.runtime.report import mark
from holitom.runtime.static import MergedStaticCache
from holitom.runtime.tower import Tower
from holitom.runtime.traced import Traced, stepped
from holitom.tokens import VideoTokens


class Router:
    """The hooks of one attached method.

    Attributes:
        attached: method and model.
        calls: the running calls of each thread.
        accounts: the reports.
        tower: the driver of the vision tower.
        traced: recognises traced forwards, whose hooks keep no state.
    """

    def __init__(self, attached: Attached, owner: object, calls: Calls, accounts: Accounts) -> None:
        """Make the hooks; `owner`: the run that encoded videos belong to."""
        self.attached, self.calls, self.accounts = attached, calls, accounts
        self.tower = Tower(attached.adapter, attached.method, calls, owner)
        self.traced = Traced(attached.adapter, calls)

    def encode(self, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """Run in the place of `get_video_features`, which the trunk's forward or `generate` calls."""
        with self.calls.running.during(sys._getframe()) as begun:
            if not begun and not self.calls.stack:  # the method is being detached
                return own(*args, **kwargs)
            output = self.tower.encode(own, args, kwargs)
        call = self.calls.current
        if call is not None and call.given is not None and call.encoded is None:
            call.encoded = Encoded.of(output)
        return output

    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        if self.traced.stateless(args, kwargs):
            return None
        call = self.calls.begin(module)
        if call is None:
            return None
        call.arguments = by_name(module.forward, args, kwargs)
        around = self.calls.around
        call.prepared, around.prepared = around.prepared, False
        around.steps += call.prepared
        return masks_aside(self.attached.adapter, call, args, kwargs)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Leave the model or the trunk."""
        if not self.traced.idle:
            self.calls.end(module)

    def enter_trunk(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        if self.traced.stateless(args, kwargs):
            return None
        self.calls.settle()
        call = self.calls.current
        if call is None or call.given is not None:
            call = self.calls.begin(module)
            if call is None:
                return None
            around = call.forward_of(self.attached.adapter.model)
            call.arguments = around or by_name(module.forward, args, kwargs)
        changed = None
        if call.mask is not None and call.module is not module:
            kwargs = {**kwargs, "attention_mask": call.mask}
            changed = args, kwargs
        call.given = given = by_name(module.forward, args, kwargs)
        if self.attached.adapter.brings(given) and self.calls.around.holds:
            self._read(call, given)
        return changed

    def _read(self, call: Call, given: Kwargs) -> None:
        """Read and check the prompt of a call that brings videos, and find the videos encoded before it.

        Args:
            call: the call.
            given: arguments of the trunk's forward, by name.
        """
        adapter, ids = self.attached.adapter, given.get("input_ids")
        if ids is None and given.get("inputs_embeds") is not None:
            ids = self.attached.ids_of(given["inputs_embeds"])
            call.given = given = {**given, "input_ids": ids}
        if ids is None:
            return  # the model's own error
        output = adapter.features_in(given)
        encoded = None if output is None else Encoded.of(output)
        foreign = output is not None and (encoded is None or not encoded.serves(self.tower.owner, output))
        refusals.check_owner(adapter, ids, foreign)
        if given.get(adapter.pixels_name) is not None:
            adapter.check_prompt(ids, given)
        call.encoded = None if foreign else encoded

    def enter_language(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        if self.traced.stateless(args, kwargs):
            return self.traced.step(kwargs)
        self.calls.settle()
        call = self.calls.current
        cache = given_cache(kwargs)
        merged = isinstance(cache, Merged) and cache.holds
        if call is None or call.decoding:  # a user called the language model
            call = self.calls.begin(module)
            if call is None:
                return None
            call.arguments = call.forward_of(self.attached.adapter.trunk)
        if call.given is None:  # no hook of the trunk has run
            refusals.check_called(self.attached.adapter, call.arguments)
        call.decoding = True
        ids, given, encoded = call.input_ids, call.given, call.encoded
        asked = 0
        videos: list[VideoTokens] = []
        if encoded is not None and ids is not None and given is not None:
            asked = self.calls.asked(call, ids)
            videos = encoded.locate(self.attached.adapter, given, asked)
        if not videos and not merged:
            came = self.attached.adapter.brings(given or {}) and self.calls.around.holds
            if came and encoded is None:
                refusals.check_encoder(self.attached.adapter, ids)
            return None
        kwargs = by_name(module.forward, args, kwargs)
        if videos:
            changed = merge(self.attached, call, videos, asked, kwargs)
            if self.calls.around.ids is not None and call.forward is not None:
                refusals.check_speech(self.attached.adapter, call.arguments)
            if call.report is not None:  # before the layers: a user's hook may end the forward
                self.accounts.tell(call.report)
        else:
            changed = go_on(self.attached, call, cache, kwargs)
        if call.cache is not None:
            call.cache.open = True
        call.began = mark(kwargs["inputs_embeds"].device)
        if self.attached.cache_name in changed:
            kwargs = {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
        return (), {**kwargs, **changed}

    def leave_language(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs, output: Any) -> Any:
        cache = given_cache(kwargs)
        if isinstance(cache, MergedStaticCache):
            cache.end_step()
        call = None if self.traced.idle else self.calls.current
        if call is None:
            return None
        forward, call.forward, call.decoding = call.forward, None, False
        try:
            return None if output is None else self._left(call, forward, cache, kwargs, output)
        finally:
            call.abandon()
            self.calls.end(module)

    def _left(self, call: Call, forward: Forward | None, cache: Any, kwargs: Kwargs, output: Any) -> Any:
        """Return the output of a language model that has not failed, and write what its cache holds."""
        if forward is not None:
            forward.check_cache()
            layout, ids = forward.layout, call.input_ids
            if layout is not None and ids is not None:
                refusals.check_labels(self.attached.adapter, call.arguments, ids, layout)
            hidden = forward.restore(output[0], kwargs.get("logits_to_keep"))
            if isinstance(output, tuple):
                output = (hidden, *output[1:])
            else:
                output.last_hidden_state = hidden
            forward.remember()
        if call.cache is not None:
            call.cache.open, call.cache = False, None
        of_real_tokens(output, forward, call)
        self.accounts.count(call, cache, output[0].device, forward)
        return output

    def layer(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Kwargs], Any]:
        """Make the hook before decoder layer `index`."""

        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
            changed = stepped(index, args, kwargs)
            forward = None if changed is not None or self.traced.idle else self.calls.forward
            if forward is None:
                return changed
            if index == 0:
                forward.check_width(args[0] if args else kwargs["hidden_states"])
            if not forward.changes(index):
                return None
            if index in forward.levels.starts[1:]:
                kwargs = by_name(module.forward, args, kwargs)
                args = (forward.enter_level(index, kwargs),)
                kwargs.pop("hidden_states")
            return args, {**kwargs, **forward.given_to(index)}

        return enter_layer

    def attention(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], Kwargs, Any], None]:
        """Make the hook after the attention of decoder layer `layer`, which ranks."""

        def leave_attention(module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs, output: Any) -> None:
            forward = None if self.traced.idle else self.calls.forward
            if forward is not None and forward.inner is not None:
                with torch.no_grad():
                    forward.leave_attention(layer, module, by_name(module.forward, args, kwargs))

        return leave_attention

    def stream(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        """Make the hook after decoder layer `index`, where holitom adds a stream."""

        def leave_layer(module: nn.Module, args: tuple[Any, ...], hidden: Tensor) -> Tensor:
            forward = None if self.traced.idle else self.calls.forward
            return hidden if forward is None else forward.leave_layer(index, hidden)

        return leave_layer
