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

import torch
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
        given: arguments of the trunk's forward by name, with the ids of a prompt that came as embeddings;
            None before that forward begins.
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
        """The trunk's `input_ids` `[B, L]`, or those that its embeddings are of; None where nobody looked."""
        return None if self.given is None else self.given.get("input_ids")


@dataclass(frozen=True)
class Prompted:
    """What `generate` was called with.

    Attributes:
        ids: `[B, L]`: of the new part of the prompt.
        holds: False where it is known to hold no video.
    """

    ids: Tensor
    holds: bool


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
        prompts: what `generate` was called with, the innermost call's last.
        stepping: the cache of the latest step over a static cache that `generate` has begun.
        under_way: the calls on the stacks of all threads, by `id`.
    """

    under_way: set[int]
    stack: list[Call] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    report: Report | None = None
    prompts: list[Prompted] = field(default_factory=list)
    stepping: Any = None

    @property
    def prompt(self) -> Tensor | None:
        """The ids `[B, L]` that came with the videos which are being encoded; None where nobody has told."""
        if self.current is not None and self.current.input_ids is not None:
            return self.current.input_ids
        return self.prompts[-1].ids if self.prompts else None

    @property
    def holds_videos(self) -> bool:
        """Whether the prompt that is being answered may hold videos."""
        return not self.prompts or self.prompts[-1].holds

    def question(self, ids: Tensor) -> Tensor:
        """The part of a forward's `ids` `[B, L]` that was asked: what follows it is a guess of the answer.

        Assisted decoding sends its first candidates with the prompt.
        """
        asked = self.prompts[-1].ids if self.prompts else ids
        begins = ids[:, : asked.shape[1]]
        if asked.shape[1] < ids.shape[1] and begins.shape == asked.shape and torch.equal(begins, asked):
            return begins
        return ids

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
            ended = [call for call in self.stack if call.frame not in running]
            self.stack = [call for call in self.stack if call.frame in running]
            self.under_way.difference_update(map(id, ended))

    def begin(self, module: nn.Module) -> Call:
        """A call that `module` begins, from now on the innermost one."""
        self.settle()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith("holitom."):
            frame = frame.f_back
        call = Call(module, {}, frame=frame)
        self.stack.append(call)
        self.under_way.add(id(call))
        return call

    def end(self, module: nn.Module) -> None:
        """Take the innermost call off the stack if `module` began it."""
        current = self.current
        if current is not None and current.module is module:
            self.cut(len(self.stack) - 1)

    def cut(self, depth: int) -> None:
        """Take all calls off the stack but the outer `depth`."""
        self.under_way.difference_update(map(id, self.stack[depth:]))
        del self.stack[depth:]


def _frames() -> Iterator[FrameType]:
    """The functions that are running in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
