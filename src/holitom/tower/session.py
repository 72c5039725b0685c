"""Hooks on one vision tower that make a call run under a plan; for other calls they do nothing.

Under a plan the computed tokens of all frames go through the layers as rows of one matrix; norms, MLPs and
projections are the model's own modules. Hooks read the state of the call from a context variable, so two
threads, two models or a nested call are independent; no attribute of a module is set during a call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from inspect import Signature, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holitom.contract import Reuse
from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.ops.host import HOST
from holitom.tower.base import Ints, Mask, Tower
from holitom.tower.framed import FramedTower
from holitom.tower.hooks import Arguments, hook_layers
from holitom.tower.kinds import kind_of
from holitom.tower.packed import PackedTower
from holitom.tower.packing import Packing, Stretches
from holitom.tower.reuse import ReuseReport
from holitom.wrapping import Hook, Wrapped


@dataclass
class Call:
    """One call of a tower under a plan.

    Attributes:
        tower: the tower that is called.
        packings: the computed tokens' packing, once for each device that the tower is on.
        reads: indices of the layers whose output is filled up to the whole grid.
        grid: shape and strides of the hidden states that entered the first layer, without values.
    """

    tower: Tower
    packings: list[Packing]
    reads: frozenset[int]
    grid: Tensor = field(default_factory=lambda: torch.empty(0, device=HOST))
    _stretches: list[tuple[Any, Packing, Stretches]] = field(default_factory=list)
    _rotary: tuple[Any, tuple[Tensor, Tensor]] | None = None

    def enter(self, index: int, hidden: Tensor) -> Tensor:
        """The hidden states that enter layer `index`, for those (`hidden`) that the tower passes to it."""
        if index == 0:
            self.grid = torch.empty_strided(hidden.shape, hidden.stride(), device="meta")
        return self._pack(hidden) if index == 0 or index - 1 in self.reads else hidden

    def other(self, argument: Any) -> Any:
        """Another `argument` of a layer, unchanged: `attend` packs it."""
        return argument

    def leave(self, index: int, hidden: Tensor) -> Tensor:
        """The output of layer `index`, for the `hidden` states that it computed."""
        return self.fill(hidden) if index in self.reads else hidden

    def fill(self, hidden: Tensor) -> Tensor:
        """All tokens' hidden states from those (`hidden`) of the computed tokens."""
        return self.tower.fill(hidden, self._packing(hidden), self.grid)

    def attend(self, attention: Any, given: Arguments) -> Any:
        """The result of `attention` instead of its own forward with arguments `given`."""
        hidden: Tensor = given["hidden_states"]
        packed = self._pack(hidden) if hidden.shape[:-1] == self.grid.shape[:-1] else hidden
        packing = self._packing(hidden)
        rows = packed.flatten(0, -2)
        stretches = self._attention(given, packing)
        found = self.tower.attend(attention, rows, stretches, self._positions(given, packing))
        found = found.view(*packed.shape[:-1], -1)
        return (found, None) if self.tower.kind.tupled else found

    def _packing(self, hidden: Tensor) -> Packing:
        for packing in self.packings:
            if packing.at.device == hidden.device:
                return packing
        self.packings.append(self.packings[0].on(hidden.device))
        return self.packings[-1]

    def _pack(self, hidden: Tensor) -> Tensor:
        return self.tower.pack(hidden, self._packing(hidden))

    def _attention(self, given: Arguments, packing: Packing) -> Stretches:
        bounds = given.get("cu_seqlens")
        for known, owner, stretches in self._stretches:
            if known is bounds and owner is packing:
                return stretches
        made = packing.stretches(self.tower.stretches(given, self.grid))
        self._stretches.append((bounds, packing, made))
        return made

    def _positions(self, given: Arguments, packing: Packing) -> tuple[Tensor, Tensor] | None:
        rotary = given.get("position_embeddings")
        if rotary is None:
            return None
        if self._rotary is None or self._rotary[0] is not rotary:
            cos, sin = rotary
            self._rotary = rotary, (packing.pack(cos), packing.pack(sin))
        return self._rotary[1]


@dataclass(frozen=True)
class Planned:
    """The plans of one call of a tower.

    Attributes:
        report: the report of reuse.
        reads: indices of the layers whose output is filled up to the whole grid.
        tokens: which of the tower's tokens are computed, the token whose output each takes, and the bounds of
            the steps (`Layout.tokens`, `Layout.bounds`); None where the stock tower runs.
    """

    report: ReuseReport
    reads: frozenset[int]
    tokens: tuple[Mask, Ints, Ints] | None

    @property
    def borders(self) -> Mask | None:
        """`[S + 1]`: whether the call may be divided before each step; None: before every step.

        It may where no token takes its output from a token on the other side.
        """
        if self.tokens is None:
            return None
        _, source, bounds = self.tokens
        earlier = np.maximum.accumulate(np.concatenate([[-1], source]))[bounds]
        later = np.minimum.accumulate(np.concatenate([[len(source)], source[::-1]]))[::-1][bounds]
        return (earlier < bounds) & (later >= bounds)

    def of(self, steps: tuple[int, int] | None) -> tuple[Mask, Ints] | None:
        """The first two of `tokens` for steps `steps[0]` to `steps[1] - 1`; None: all are computed."""
        if self.tokens is None:
            return None
        computed, source, bounds = self.tokens
        begin, end = (0, len(source)) if steps is None else bounds[list(steps)]
        if computed[begin:end].all():
            return None
        return computed[begin:end], source[begin:end] - begin


_call: ContextVar[Call | None] = ContextVar("holitom_tower_call", default=None)


class ReusedTower:
    """Reuse in the vision tower of one model, until `detach`.

    Example:
        reused = ReusedTower(adapter_for(model))
        with reused.call(Reuse(), arguments) as report:
            output = adapter.trunk.get_video_features(**arguments)
        reused.detach()

    Raises:
        UnsupportedModelError: the model's tower cannot reuse.
        UnsupportedUsageError: reuse is attached to it already.
    """

    def __init__(self, adapter: Adapter, *reads: nn.Module) -> None:
        """`reads`: attention modules whose input is read, besides the one that importance is read from."""
        kind = kind_of(adapter)
        self.tower = (FramedTower if kind.frames == "stacked" else PackedTower)(adapter, kind)
        if any(isinstance(each.__dict__.get("forward"), Wrapped) for each in self.tower.attentions):
            raise UnsupportedUsageError("reuse is attached to this vision tower already; detach it first")
        self._hooks = hook_layers(self.tower, _call)
        self._wrapped = [
            Wrapped(attention, "forward", partial(_attend, attention, signature(attention.forward)))
            for attention in self.tower.attentions
        ]
        # Importance is read from this module's input, which must therefore be the whole grid.
        for read in {adapter.vision_attention, *reads}:
            self._hooks.append(read.register_forward_pre_hook(Hook(_fill), with_kwargs=True, prepend=True))

    def detach(self) -> None:
        """Remove every hook from the tower. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for wrapped in self._wrapped:
            wrapped.release()
        self._wrapped.clear()

    def plan(self, reuse: Reuse, arguments: Arguments, input_ids: Tensor | None = None) -> Planned:
        """Plan a call of the trunk's encoder; arguments as in `call`."""
        tower, began = self.tower, time.perf_counter()
        with torch.no_grad():
            report, tokens = self._planned(reuse, arguments, input_ids)
        report.seconds = time.perf_counter() - began
        return Planned(report, tower.reads(arguments), tokens)

    def _planned(
        self, reuse: Reuse, arguments: Arguments, input_ids: Tensor | None
    ) -> tuple[ReuseReport, tuple[Mask, Ints, Ints] | None]:
        """The report and the `tokens` of a `Planned`."""
        tower = self.tower
        why = tower.wants_all(arguments)
        if why is not None:
            return ReuseReport(stock=why), None
        layout = tower.lay_out(arguments, tower.frames_of(arguments, input_ids))
        if layout is None:
            return ReuseReport(stock="frames cannot be told from images, or are padded"), None
        plans = tower.plans(reuse, layout)
        report = ReuseReport(tuple(plans), layout.others)
        if all(plan.whole for plan in plans):
            report.stock = "less than a tenth could be reused"
            return report, None
        return report, (*layout.tokens(plans), layout.bounds)

    @contextmanager
    def run(
        self, planned: Planned, device: torch.device, steps: tuple[int, int] | None = None
    ) -> Iterator[None]:
        """Run a call of the trunk's encoder inside the `with` block as planned.

        Args:
            planned: the plans, made by `plan`.
            device: the device of the pixels.
            steps: the first step that the encoder is given and the one after the last, both at `borders`;
                None: all steps.
        """
        tokens, call = planned.of(steps), None
        if tokens is not None:
            call = Call(self.tower, [Packing.of(*tokens, device)], planned.reads)
        token = _call.set(call)
        try:
            yield
        finally:
            _call.reset(token)

    @contextmanager
    def call(
        self, reuse: Reuse, arguments: Arguments, input_ids: Tensor | None = None
    ) -> Iterator[ReuseReport]:
        """Run a call of the trunk's encoder inside the `with` block under a plan for its videos.

        Args:
            reuse: settings.
            arguments: arguments of the encoder, by name.
            input_ids: `[B, L]`: the prompt; where videos come as images, it tells which images are frames.
                Without it all images are computed.
        """
        planned = self.plan(reuse, arguments, input_ids)
        with self.run(planned, arguments[self.tower.adapter.pixels_name].device):
            yield planned.report


def _fill(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Any:
    call = _call.get()
    if call is None or not any(module is each for each in call.tower.attentions):
        return None
    if args:
        return (call.fill(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": call.fill(kwargs["hidden_states"])}


def _attend(
    attention: nn.Module, own_signature: Signature, own: Any, args: tuple[Any, ...], kwargs: Arguments
) -> Any:
    """The wrapper of an attention's `own` forward while reuse is attached."""
    call = _call.get()
    if call is None or not any(attention is each for each in call.tower.attentions):
        return own(*args, **kwargs)
    return call.attend(attention, own_signature.bind(*args, **kwargs).arguments)
