"""Count the calls of an attached model in all threads, so that `detach` can wait for them.

A call runs as long as Python runs the function that began it: an interrupt (Ctrl-C) ends it without a hook.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from holitom.runtime import refusals


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
        own, executing = threading.get_ident(), set(frames())
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


def frames() -> Iterator[FrameType]:
    """Yield the frames of the functions that are running in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
