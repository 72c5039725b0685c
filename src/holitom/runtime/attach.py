"""Attach a method to a model by hooks, and detach it.

A forward with a method attached goes like this:

    get_video_features    runs as in the stock model; an `Encoded` is added         tower.py, encoded.py
    language model        videos are merged, and the forward is planned             merging.py, plan.py
      layer 0             gets the packed batch of the tokens that are left         layout.py, forward.py
      layer k             merges again, ranked by attention of the layer before     inner.py
    language model ends   hidden states return to the caller's columns, and the
                          cache's record says which columns its layers hold         cache.py, levels.py

A forward without new videos takes mask and positions from the cache's record. The state of a call is kept by
thread (call.py), method and model in `Attached`, and the hooks in router.py.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from typing import Any

from torch import nn

from holitom.contract import Merges
from holitom.errors import UnsupportedUsageError
from holitom.models.parts import Parts
from holitom.runtime import refusals
from holitom.runtime.accounts import Accounts
from holitom.runtime.attached import Attached
from holitom.runtime.call import Calls
from holitom.runtime.generation import Generation
from holitom.runtime.report import Report
from holitom.runtime.router import Router
from holitom.runtime.running import Running
from holitom.runtime.tower import Tower
from holitom.wrapping import Hook, Wrapped


class Run:
    """The reports of one run of an attached model."""

    def __init__(self) -> None:
        self._calls = Calls(Running())
        self._latest: Report | None = None

    @property
    def last(self) -> Report | None:
        """The report of the latest forward or `generate` that carried videos; None before the first.

        Each thread reads its own; one that has made none reads the latest of any.
        """
        return self._calls.report or self._latest

    def _tell(self, report: Report) -> None:
        self._calls.report = self._latest = report

    def __reduce__(self) -> tuple[Callable[..., Run], tuple[type[Run], Report | None]]:
        """Copy and pickle as a detached run, with the latest report and without the model."""
        return _detached, (type(self), self.last)


def _detached(kind: type[Run], last: Report | None) -> Run:
    run = kind.__new__(kind)
    Run.__init__(run)
    run._latest = last
    return run


class Handle(Run):
    """A method that is attached to a model until `detach`."""

    _hooks: Sequence[Any] = ()
    _wrapped: Sequence[Wrapped] = ()
    _tower: Tower | None = None

    def __init__(self, method: Merges, model: nn.Module) -> None:
        super().__init__()
        attached = Attached.of(method, model)
        for module in (attached.adapter.trunk, attached.adapter.language_model):
            if any(isinstance(hook, Hook) for hook in module._forward_pre_hooks.values()):
                raise refusals.TWICE.error()
        router = Router(attached, self, self._calls, Accounts(self._tell))
        self._tower = router.tower
        self._wrapped = self._wrap(router)
        self._hooks = self._hook(router)

    def encode(self, given: dict[str, Any], parts: Parts) -> Any:
        """Encode videos that come in parts, for the model's argument `mm_encoder_outputs`.

        Args:
            given: arguments of the encoder for all parts, by name; their pixels may be on the meta device.
            parts: the parts, encoded in batches of the method's `tower_batch` frames, else of 32.

        Raises:
            UnsupportedUsageError: the method is detached, or the tower has reuse or frame merging.
        """
        with self._calls.running.during(sys._getframe()) as begun:
            if self._tower is None or not begun:
                raise UnsupportedUsageError("this method is detached; attach it again before encoding videos")
            return self._tower.encode_parts(self._wrapped[0].own, given, parts)

    def detach(self) -> None:
        """Remove every hook and restore the model. A second call does nothing.

        Forwards that run in other threads end first, as with the method attached.

        Raises:
            UnsupportedUsageError: a forward of the model is running in this thread.
        """
        self._calls.running.close()
        for hook in self._hooks:
            hook.remove()
        for wrapped in self._wrapped:
            wrapped.release()
        if self._tower is not None:
            self._tower.detach()
        self._tower, self._wrapped, self._hooks = None, (), ()
        self._calls.cut(0)  # calls that an interrupt (Ctrl-C) left would hold the model

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @staticmethod
    def _wrap(router: Router) -> list[Wrapped]:
        adapter = router.attached.adapter
        wrapped = [Wrapped(adapter.trunk, adapter.encoder, router.encode)]
        wrapped += [Wrapped(adapter.trunk, name, instead) for name, instead in adapter.replaced().items()]
        if hasattr(adapter.model, "generate"):
            generation = Generation(router.attached, router.calls, router.accounts)
            wrapped.append(Wrapped(adapter.model, "generate", generation.generate))
            wrapped.append(Wrapped(adapter.model, "prepare_inputs_for_generation", generation.prepare))
        return wrapped

    @staticmethod
    def _hook(router: Router) -> list[Any]:
        attached, adapter = router.attached, router.attached.adapter
        model, trunk, language = adapter.model, adapter.trunk, adapter.language_model
        hooks = [
            _before(model, router.enter_model),
            _before(trunk, router.enter_trunk),
            _before(language, router.enter_language),
            _after(language, router.leave_language, with_kwargs=True, always_call=True),
            _after(trunk, router.leave, always_call=True),
        ]
        if model is not trunk:
            hooks.append(_after(model, router.leave, always_call=True))
        tower = router.tower
        if tower.wanted & {"importance", "keys"}:
            hooks.append(_before(tower.reads.vision_attention, tower.see))
        if tower.early is not None:
            hooks.append(_before(tower.early.vision_attention, tower.see_early))
        hooks += [_before(layer, router.layer(index)) for index, layer in enumerate(adapter.layers)]
        for index in {ranks for layer, ranks in attached.ranked_by.items() if ranks != layer}:
            attention: Any = adapter.layers[index].self_attn
            hooks.append(_after(attention, router.attention(index), with_kwargs=True))
        for index in range(attached.first_stage, adapter.streams):
            hooks.append(_after(adapter.layers[index], router.stream(index)))
        return hooks


def _before(module: nn.Module, function: Callable[..., Any]) -> Any:
    return module.register_forward_pre_hook(Hook(function), with_kwargs=True)


def _after(module: nn.Module, function: Callable[..., Any], **how: bool) -> Any:
    return module.register_forward_hook(Hook(function), **how)


def attach(method: Merges, model: nn.Module) -> Handle:
    """Attach `method` to `model`: its videos are merged until the handle's `detach`.

    Raises:
        UnsupportedModelError: no adapter knows the model.
        UnsupportedUsageError: the model is compiled, or a method is attached to it already.
        InterfaceError: the installed transformers is not built as holitom needs it.
        SettingsError: the method merges at a layer that the model does not have.
    """
    return Handle(method, model)


class Block(ContextDecorator):
    """A method that is attached inside a `with` block, or while a decorated function runs; an exception
    detaches it too.

    It can be entered again after it was left. It warns if nobody enters it.
    """

    def __init__(self, method: Merges, model: nn.Module) -> None:
        self._method, self._model = method, model
        self._handles: list[Handle] = []
        self._used = False

    def __enter__(self) -> Handle:
        self._used = True
        self._handles.append(attach(self._method, self._model))
        return self._handles[-1]

    def __exit__(self, *_: object) -> None:
        self._handles[-1].detach()
        self._handles.pop()

    def __call__(self, function: Any) -> Any:
        self._used = True
        return super().__call__(function)

    def __del__(self) -> None:
        if not self._used:
            name = type(self._method).__name__
            warnings.warn(
                f"{name}(...)(model) attaches inside a with block only, and none was entered; {name}(...)"
                ".attach(model) attaches until its detach()",
                RuntimeWarning,
                stacklevel=2,
            )


def attached(method: Merges, model: nn.Module) -> Block:
    """Attach `method` to `model` inside a `with` block; errors are those of `attach`."""
    return Block(method, model)
