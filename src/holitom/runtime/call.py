"""Keep the state of each call of an attached model.

Several threads may call one model at once, and a hook inside a forward may call it again. Each thread keeps a
stack of its running calls, the innermost last; hooks work on the innermost call of their own thread.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holitom.runtime import refusals
from holitom.runtime.cache import Merged
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
        cache: the cache that the language model is filling with merged tokens; None where it fills none.
        prepared: whether `generate` has prepared its arguments.
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
    cache: Merged | None = None
    prepared: bool = False
    decoding: bool = False
    began: Mark = 0.0
    report: Report | None = None
    frame: FrameType | None = field(default=None, repr=False)

    @property
    def input_ids(self) -> Tensor | None:
        """The trunk's `input_ids` `[B, L]`, or the ids of its embeddings; None where they were not needed."""
        return None if self.given is None else self.given.get("input_ids")

    def abandon(self) -> None:
        """Close the cache of a call whose forward has not ended as it should."""
        if self.cache is not None:
            self.cache.abandon()
            self.cache = None


class Running:
    """Calls of an attached model, and of its video encoder, that are running in any thread.

    Attributes:
        frames: for each of them, by `id`, its thread and the function that runs as long as it does.
        closed: whether the method is being detached, so that no further call begins.
    """

    def __init__(self) -> None:
        self.frames: dict[int, tuple[int, FrameType | None]] = {}
        self.closed = False

    def begin(self, call: object, frame: FrameType | None) -> bool:
        """Enter `call` of this thread; False if none begins any more."""
        self.frames[id(call)] = threading.get_ident(), frame
        if self.closed:  # asked after entering, so that `close` misses no call
            self.end(call)
            return False
        return True

    def end(self, call: object) -> None:
        """Remove `call`."""
        self.frames.pop(id(call), None)

    @contextmanager
    def during(self, frame: FrameType) -> Iterator[bool]:
        """Enter a call by the function of `frame` for the block; gives what `begin` returns."""
        call = object()
        try:
            yield self.begin(call, frame)
        finally:
            self.end(call)

    def close(self) -> None:
        """Let no further call begin, and wait until those of other threads have ended.

        Raises:
            UnsupportedUsageError: a call of this thread is running.
        """
        own, executing = threading.get_ident(), set(_frames())
        if any(thread == own and frame in executing for thread, frame in list(self.frames.values())):
            raise refusals.INSIDE.error()
        self.closed = True
        while any(thread != own and _executes(frame) for thread, frame in list(self.frames.values())):
            time.sleep(0.001)
        self.frames.clear()  # what an interrupt (Ctrl-C) has left


def _executes(frame: FrameType | None) -> bool:
    """Whether another thread executes the function of `frame`."""
    try:
        if frame is not None:
            frame.clear()
    except RuntimeError:  # Python clears no frame that executes
        return True
    return False


@dataclass
class Prompted:
    """The prompt that `generate` was called with.

    Attributes:
        ids: `[B, L]`: ids of the part of the prompt that is not in the cache.
        holds: whether the prompt may hold videos.
        prepares: whether `generate` prepares the arguments of its forwards.
        prepared: whether it has prepared those of a forward that has not begun.
    """

    ids: Tensor
    holds: bool
    prepares: bool = False
    prepared: bool = False


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
        running: the calls of all threads.
    """

    running: Running
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

    def prepare(self) -> None:
        """Note that `generate` has prepared the arguments of its next forward."""
        if self.prompts:
            self.prompts[-1].prepares = self.prompts[-1].prepared = True

    def asked(self, call: Call, ids: Tensor) -> int:
        """Return the number of columns of the `ids` `[B, L]` of `call` up to the end of the question.

        In a forward of `generate`, what stands behind the prompt is an answer: without a cache every step
        brings it again, and assisted decoding sends its first candidates with the prompt. `generate` repeats
        rows. A forward that a user calls while `generate` runs is another's.
        """
        rows, columns = ids.shape
        if not self.prompts or (self.prompts[-1].prepares and not call.prepared):
            return columns
        prompt = self.prompts[-1].ids
        copies, rest = divmod(rows, len(prompt))
        if prompt.shape[1] >= columns or rest or not copies:
            return columns
        begins = prompt.to(ids.device).repeat_interleave(copies, dim=0)
        return prompt.shape[1] if torch.equal(ids[:, : prompt.shape[1]], begins) else columns

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
            executing = set(_frames())
            ended = [call for call in self.stack if call.frame not in executing]
            self.stack = [call for call in self.stack if call.frame in executing]
            self._remove(ended)

    def begin(self, module: nn.Module) -> Call | None:
        """Begin a call by the forward of `module`, and put it on the stack.

        Returns None where the method is being detached: the forward then runs as in the stock model, unless
        it is inside another call, which goes on to its end.
        """
        self.settle()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith("holitom."):
            frame = frame.f_back
        call = Call(module, {}, frame=frame)
        if not self.running.begin(call, frame) and not self.stack:
            return None
        self.stack.append(call)
        return call

    def end(self, module: nn.Module) -> None:
        """Remove the innermost call from the stack if `module` began it."""
        current = self.current
        if current is not None and current.module is module:
            self.cut(len(self.stack) - 1)

    def cut(self, depth: int) -> None:
        """Remove all calls from the stack but the outer `depth`."""
        ended = self.stack[depth:]
        del self.stack[depth:]
        self._remove(ended)

    def _remove(self, ended: list[Call]) -> None:
        for call in ended:
            call.abandon()
            self.running.end(call)


def forward_around(call: Call, model: nn.Module) -> dict[str, Any]:
    """Return the arguments of the `forward` of `model` that has begun a call; empty where none has.

    A user who calls `model.forward(...)`, not `model(...)`, passes by the hooks of `model`.

    Args:
        call: a call that a part of `model` has begun.
        model: the whole model, or its trunk.
    """
    frame = None if call.frame is None else call.frame.f_back
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("torch.", "accelerate.")):
        frame = frame.f_back
    if frame is None or frame.f_locals.get("self") is not model:
        return {}
    return {**frame.f_locals, **frame.f_locals.get("kwargs", {})}


def _frames() -> Iterator[FrameType]:
    """Yield the frames of the functions that are running in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
