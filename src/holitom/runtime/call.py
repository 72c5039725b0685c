"""Keep the state of each call of an attached model.

Several threads may call one model at once, and a hook inside a forward may call it again. Each thread keeps a
stack of its running calls, the innermost last; hooks work on the innermost call of their own thread.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holitom.runtime.cache import Merged
from holitom.runtime.encoded import Encoded
from holitom.runtime.reading import Reading
from holitom.runtime.report import Mark, Report
from holitom.runtime.running import Running, frames

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

    def forward_of(self, model: nn.Module) -> Kwargs:
        """Return the arguments of the `forward` of `model` that has begun this call; empty where none has.

        A user who calls `model.forward(...)`, not `model(...)`, passes by the hooks of `model`.

        Args:
            model: the whole model, or its trunk, of which a part has begun this call.
        """
        frame = None if self.frame is None else _outside(self.frame.f_back, "torch.", "accelerate.")
        if frame is None or frame.f_locals.get("self") is not model:
            return {}
        return {**frame.f_locals, **frame.f_locals.get("kwargs", {})}

    def abandon(self) -> None:
        """Close the cache of a call whose forward has not ended as it should."""
        if self.cache is not None:
            self.cache.abandon()
            self.cache = None


@dataclass
class Generating:
    """One call of `generate`.

    Attributes:
        ids: `[B, L]`: ids of the part of its prompt that is not in the cache; None where it brings no videos.
        holds: whether the prompt may hold videos.
        prepares: whether `generate` prepares the arguments of its forwards.
        prepared: whether it has prepared those of a forward that has not begun.
        steps: number of its forwards that have begun with the method attached.
        cached: whether they fill a cache.
        stepping: the static cache of the forward that it has prepared last, where that is a step of one token
            a row over merged tokens; else None.
    """

    ids: Tensor | None = None
    holds: bool = True
    prepares: bool = False
    prepared: bool = False
    steps: int = 0
    cached: bool = False
    stepping: Any = None


@dataclass
class Calls(threading.local):
    """The calls of one attached model that are running in one thread.

    Attributes:
        stack: its calls, the innermost last.
        readings: readings of its calls of the encoder, the innermost last.
        report: the thread's latest report.
        generating: its calls of `generate`, the innermost last.
        running: the calls of all threads.
    """

    running: Running
    stack: list[Call] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    report: Report | None = None
    generating: list[Generating] = field(default_factory=list)

    @property
    def prompt(self) -> Tensor | None:
        """The ids `[B, L]` of the prompt whose videos are being encoded; None where they are not known."""
        if self.current is not None and self.current.input_ids is not None:
            return self.current.input_ids
        return self.around.ids

    @property
    def around(self) -> Generating:
        """The innermost call of `generate`; outside of one, a call that nothing is known of."""
        return self.generating[-1] if self.generating else Generating()

    def asked(self, call: Call, ids: Tensor) -> int:
        """Return the number of columns of the `ids` `[B, L]` of `call` up to the end of the question.

        In a forward of `generate`, what stands behind the prompt is an answer: without a cache every step
        brings it again, and assisted decoding sends its first candidates with the prompt. `generate` repeats
        rows. A forward that a user calls while `generate` runs is another's.
        """
        rows, columns = ids.shape
        around = self.around
        prompt = around.ids
        if prompt is None or (around.prepares and not call.prepared):
            return columns
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
            executing = set(frames())
            ended = [call for call in self.stack if call.frame not in executing]
            self.stack = [call for call in self.stack if call.frame in executing]
            self._remove(ended)

    def begin(self, module: nn.Module) -> Call | None:
        """Begin a call by the forward of `module`, and put it on the stack.

        Returns None where the method is being detached: the forward then runs as in the stock model, unless
        it is inside another call, which goes on to its end.
        """
        self.settle()
        frame = _outside(next(frames()), "holitom.")
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


def _outside(frame: FrameType | None, *packages: str) -> FrameType | None:
    """Return `frame` or the nearest caller of it whose function is in none of `packages` ("torch.")."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith(packages):
        frame = frame.f_back
    return frame
