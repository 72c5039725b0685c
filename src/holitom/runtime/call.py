"""The state of one call of an attached model, which lives with the call.

Several threads may call one model at once, and a hook inside a forward may call it again. Each thread keeps a
stack of the calls that it is in, the innermost last; hooks work on the innermost one of their own thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from holitom.runtime.encoded import Encoded
from holitom.runtime.report import Mark, Report

if TYPE_CHECKING:
    from holitom.runtime.forward import Forward

Kwargs = dict[str, Any]


@dataclass
class Call:
    """One forward of the model that a method is attached to.

    Attributes:
        module: the module whose forward began the call: the model, or its trunk where that was called itself.
        arguments: of that forward, by name.
        mask: the caller's attention mask, where it was kept from the model (see experts.py).
        given: arguments of the trunk's forward by name; None before that forward begins.
        encoded: the videos that the call brings; None without videos.
        forward: the language model's forward with merged tokens; None where it runs as in the stock model.
        decoding: whether the language model is running.
        began: when it began.
        report: what is reported of the videos that the call brings for the first time.
        frame: the function under way that runs `module`'s forward and its hooks.
    """

    module: nn.Module
    arguments: Kwargs
    mask: Tensor | None = None
    given: Kwargs | None = None
    encoded: Encoded | None = None
    forward: Forward | None = None
    decoding: bool = False
    began: Mark = 0.0
    report: Report | None = None
    frame: FrameType | None = field(default=None, repr=False)

    @property
    def input_ids(self) -> Tensor | None:
        """The trunk's `input_ids` `[B, L]`; None where it was called with embeddings."""
        return None if self.given is None else self.given.get("input_ids")


@dataclass
class Reading:
    """What is read from the vision tower's attention during one call of the encoder.

    Attributes:
        lengths: of the patches that attend to each other, see `Adapter.attention_lengths`.
        importance: of every patch, see `Adapter.importance`; None until it is read.
        keys: of every patch, see `Adapter.keys`; None until they are read.
        shallow: as `importance`, of the early layer.
    """

    lengths: list[int] = field(default_factory=list)
    importance: Tensor | None = None
    keys: Tensor | None = None
    shallow: Tensor | None = None


@dataclass
class Calls(threading.local):
    """The calls of one attached model that are running in one thread.

    Attributes:
        stack: its calls, the innermost last.
        readings: calls of the encoder, the innermost last.
        report: the thread's latest report.
        prompts: ids `[B, L]` of the new part of what `generate` was called with, the innermost call's last.
    """

    stack: list[Call] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    report: Report | None = None
    prompts: list[Tensor] = field(default_factory=list)

    @property
    def prompt(self) -> Tensor | None:
        """The ids `[B, L]` that came with the videos which are being encoded; None where nobody has told."""
        if self.current is not None and self.current.input_ids is not None:
            return self.current.input_ids
        return self.prompts[-1] if self.prompts else None

    @property
    def current(self) -> Call | None:
        """The innermost call."""
        if len(self.stack) > 1:
            self.settle()
        return self.stack[-1] if self.stack else None

    @property
    def forward(self) -> Forward | None:
        """The innermost call's forward with merged tokens."""
        current = self.current
        return None if current is None else current.forward

    def settle(self) -> None:
        """Take calls off the stack that an interrupt (Ctrl-C) has ended, after which no hook runs."""
        if self.stack:
            running = set(_frames())
            self.stack = [call for call in self.stack if call.frame in running]

    def begin(self, module: nn.Module) -> Call:
        """A call that `module` begins, from now on the innermost one."""
        self.settle()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith("holitom."):
            frame = frame.f_back
        call = Call(module, {}, frame=frame)
        self.stack.append(call)
        return call

    def end(self, module: nn.Module) -> None:
        """Take the innermost call off the stack if `module` began it."""
        current = self.current
        if current is not None and current.module is module:
            self.stack.pop()


def _frames() -> Iterator[FrameType]:
    """The functions that are running in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
