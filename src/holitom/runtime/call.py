"""Keep the state of each call of an attached model.

Several threads may call one model at once, and a hook inside a forward may call it again. Each thread keeps a
stack of its running calls, the innermost last; hooks work on the innermost call of their own thread.
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
        module: the module whose forward began the call: the model, or its trunk where a user called that.
        arguments: arguments of that forward, by name.
        mask: the caller's attention mask, where it was withheld from the model (see experts.py).
        given: arguments of the trunk's forward by name, with the ids of a prompt that came as embeddings;
            None before that forward begins.
        encoded: the videos that the call brings; None without videos.
        forward: the language model's forward with merged tokens; None where it runs as in the stock model.
        decoding: whether the language model is running.
        began: the time at which the language model began.
        report: report of the videos, in the call that brings them first.
        frame: the running function that calls `module`'s forward and its hooks.
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
        """The trunk's `input_ids` `[B, L]`, or the ids of its embeddings; None where they were not needed."""
        return None if self.given is None else self.given.get("input_ids")


@dataclass(frozen=True)
class Prompted:
    """The prompt that `generate` was called with.

    Attributes:
        ids: `[B, L]`: ids of the part of the prompt that is not in the cache.
        holds: whether the prompt may hold videos.
    """

    ids: Tensor
    holds: bool


@dataclass
class Reading:
    """Importance and keys of the vision tower in one call of the encoder.

    Attributes:
        lengths: numbers of patches that attend to each other, see `Adapter.attention_lengths`.
        importance: importance of every patch, see `Adapter.importance`; None until a hook reads it.
        keys: keys of every patch, see `Adapter.keys`; None until a hook reads them.
        shallow: importance at the early layer; None until a hook reads it.
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
        readings: readings of its calls of the encoder, the innermost last.
        report: the thread's latest report.
        prompts: prompts of its calls of `generate`, the innermost last.
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
        """The ids `[B, L]` of the prompt whose videos are being encoded; None where they are not known."""
        if self.current is not None and self.current.input_ids is not None:
            return self.current.input_ids
        return self.prompts[-1].ids if self.prompts else None

    @property
    def holds_videos(self) -> bool:
        """Whether the prompt of the innermost `generate` may hold videos."""
        return not self.prompts or self.prompts[-1].holds

    def question(self, ids: Tensor) -> Tensor:
        """Return the prompt's part of a forward's `ids` `[B, L]`.

        Assisted decoding sends its first candidates for the answer behind the prompt.
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
        """Remove calls from the stack that an interrupt (Ctrl-C) has ended, since it runs no hooks."""
        if self.stack:
            running = set(_frames())
            ended = [call for call in self.stack if call.frame not in running]
            self.stack = [call for call in self.stack if call.frame in running]
            self.under_way.difference_update(map(id, ended))

    def begin(self, module: nn.Module) -> Call:
        """Begin a call by the forward of `module`, and put it on the stack."""
        self.settle()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith("holitom."):
            frame = frame.f_back
        call = Call(module, {}, frame=frame)
        self.stack.append(call)
        self.under_way.add(id(call))
        return call

    def end(self, module: nn.Module) -> None:
        """Remove the innermost call from the stack if `module` began it."""
        current = self.current
        if current is not None and current.module is module:
            self.cut(len(self.stack) - 1)

    def cut(self, depth: int) -> None:
        """Remove all calls from the stack but the outer `depth`."""
        self.under_way.difference_update(map(id, self.stack[depth:]))
        del self.stack[depth:]


def _frames() -> Iterator[FrameType]:
    """Yield the frames of the functions that are running in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
