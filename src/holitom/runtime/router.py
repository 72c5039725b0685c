"""The hooks of an attached method, in the order in which a forward meets them. They only route.

model ------ enter_model                                                     leave_model
trunk ------ enter_trunk   (encode)                                          leave_trunk
language model             enter_language                    leave_language
layers                     enter_layer   leave_attention   leave_layer
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from holitom.models.interface import CACHE_NAMES, given_cache
from holitom.runtime import refusals
from holitom.runtime.attached import Attached
from holitom.runtime.cache import MergedCache, layer_bytes, unmerged_bytes
from holitom.runtime.call import Call, Calls, Kwargs
from holitom.runtime.encoded import carried
from holitom.runtime.experts import masks_aside, of_real_tokens
from holitom.runtime.forward import Forward, by_name
from holitom.runtime.merging import go_on, merge
from holitom.runtime.report import Report, mark
from holitom.runtime.tower import Tower


class Router:
    """What the hooks of one attached method do.

    Attributes:
        attached: method and model.
        calls: what each thread has under way.
        tower: reads the vision tower.
    """

    def __init__(
        self, attached: Attached, owner: object, calls: Calls, tell: Callable[[Report], None]
    ) -> None:
        """`owner`: of what is encoded. `tell`: called with each new report."""
        self.attached, self.calls, self._owner, self._tell = attached, calls, owner, tell
        self.tower = Tower(attached.adapter, attached.method, calls)
        self._reports: WeakKeyDictionary[Any, Report] = WeakKeyDictionary()  # by the cache that they tell of

    def generate(self, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """Look over a prompt before `generate` encodes its videos, which it does before any forward."""
        adapter, depth = self.attached.adapter, len(self.calls.stack)
        ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        prompts = len(self.calls.prompts)
        if ids is not None and kwargs.get(adapter.pixels_name) is not None:
            cache = given_cache(kwargs)
            seen = 0 if cache is None else int(cache.get_seq_length())
            adapter.check_prompt(ids[:, seen:], kwargs)
            self.calls.prompts.append(ids[:, seen:])
        try:
            return own(*args, **kwargs)
        finally:
            del self.calls.prompts[prompts:]
            del self.calls.stack[depth:]  # an interrupt (Ctrl-C) runs no hooks

    def encode(self, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """`get_video_features`, which the trunk's forward or `generate` calls."""
        output = self.tower.encode(self._owner, own, args, kwargs)
        call = self.calls.current
        if call is not None and call.given is not None and call.encoded is None:
            call.encoded = carried(output)
        return output

    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        call = self.calls.begin(module)
        call.arguments = by_name(module.forward, args, kwargs)
        return masks_aside(self.attached.adapter, call, args, kwargs)

    def leave_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.calls.end(module)

    def enter_trunk(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        self.calls.settle()
        call = self.calls.current
        if call is None or call.given is not None:
            call = self.calls.begin(module)
            call.arguments = by_name(module.forward, args, kwargs)
        changed = None
        if call.mask is not None and call.module is not module:
            kwargs = {**kwargs, "attention_mask": call.mask}
            changed = args, kwargs
        call.given = given = by_name(module.forward, args, kwargs)
        adapter, ids = self.attached.adapter, given.get("input_ids")
        if ids is None:
            refusals.check_embeddings(adapter, given)
            return changed
        output = (given.get("mm_encoder_outputs") or {}).get(adapter.modality)
        encoded = None if output is None else carried(output)
        foreign = output is not None and (encoded is None or encoded.owner is not self._owner)
        refusals.check_owner(adapter, foreign)
        if given.get(adapter.pixels_name) is not None:
            adapter.check_prompt(ids, given)
        call.encoded = encoded
        return changed

    def leave_trunk(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.calls.end(module)

    def enter_language(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        self.calls.settle()
        call = self.calls.current
        cache = given_cache(kwargs)
        merged = isinstance(cache, MergedCache) and cache.record is not None
        if call is None or call.decoding:  # the language model was called itself
            call = self.calls.begin(module)
        call.decoding = True
        ids, encoded = call.input_ids, call.encoded
        if encoded is not None and ids is not None and call.given is not None:
            encoded.locate(self.attached.adapter, call.given)
        brings = encoded is not None and bool(encoded.videos)
        if not brings and not merged:
            refusals.check_nothing_missing(self.attached.adapter, ids, cache, self._came(call))
            return None
        kwargs = by_name(module.forward, args, kwargs)
        if brings and encoded is not None and ids is not None:
            changed = merge(self.attached, call, ids, encoded, kwargs)
            if call.report is not None:  # already now: somebody may end the forward here
                self._tell(call.report)
        else:
            changed = go_on(self.attached, call, cache, kwargs)
        if call.forward is not None and call.forward.cache is not None:
            call.forward.cache.open = True
        call.began = mark(kwargs["inputs_embeds"].device)
        if self.attached.cache_name in changed:
            kwargs = {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
        return (), {**kwargs, **changed}

    def _came(self, call: Call) -> bool:
        """Whether the trunk was given videos, of which nothing came out of the encoder."""
        adapter, given = self.attached.adapter, call.given or {}
        outputs = given.get("mm_encoder_outputs") or {}
        brings = given.get(adapter.pixels_name) is not None or outputs.get(adapter.modality) is not None
        return brings and call.encoded is None

    def leave_language(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs, output: Any) -> Any:
        call = self.calls.current
        if call is None:
            return None
        forward, call.forward, call.decoding = call.forward, None, False
        self.calls.end(module)
        if forward is not None and forward.cache is not None:
            forward.cache.open = False
        if output is None:  # the forward failed
            return None
        cache = given_cache(kwargs)
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
        of_real_tokens(output, forward, call)
        self._account(call, cache, output[0].device, forward)
        return output

    def layer(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Kwargs], Any]:
        """The hook on the way into decoder layer `index`."""

        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
            forward = self.calls.forward
            if forward is None:
                return None
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
        """The hook on the way out of the attention of decoder layer `layer`, which ranks."""

        def leave_attention(module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs, output: Any) -> None:
            forward = self.calls.forward
            if forward is not None and forward.inner is not None:
                with torch.no_grad():
                    forward.leave_attention(layer, module, by_name(module.forward, args, kwargs))

        return leave_attention

    def stream(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        """The hook on the way out of decoder layer `index`, where holitom adds a stream."""

        def leave_layer(module: nn.Module, args: tuple[Any, ...], hidden: Tensor) -> Tensor:
            forward = self.calls.forward
            return hidden if forward is None else forward.leave_layer(index, hidden)

        return leave_layer

    def _account(self, call: Call, cache: Any, device: torch.device, forward: Forward | None) -> None:
        """Count what the report of this call's videos still lacks: times, and the cache as it is now."""
        report = call.report
        if report is None and cache is not None:
            report = self._reports.get(cache)
        elif report is None and call.encoded is not None:
            report = call.encoded.report
        if report is None:
            return
        now = mark(device)
        if call.report is not None:
            report.add("prefill", call.began, now)
            if forward is not None and forward.inner is not None:
                for span in forward.inner.spans:
                    report.add("inner", *span)
            if cache is not None:
                self._reports[cache] = report
            self._tell(report)
        report.decoded(now)
        if cache is not None:
            report.kv_bytes = sum(map(layer_bytes, cache.layers))
            report.kv_bytes_full = unmerged_bytes(cache)
