"""Share the cores of the host between a thread that decodes a video and the vision tower."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_lock = threading.Lock()
_sharing: list[int] = []
"""For each call that shares cores at present, the number of PyTorch's threads before the first of them. The
number belongs to the process, so the last call has to restore what the first one found."""


def _unshared() -> int:
    """PyTorch's threads where no call shares cores; `_lock` is held."""
    return _sharing[0] if _sharing else torch.get_num_threads()


@dataclass(frozen=True)
class Cores:
    """Threads of the decoder and of the vision tower while both work.

    PyTorch divides each layer evenly among its threads. If the decoder occupies the core of one of them, the
    others wait for it: on two cores, 500 frames of a ten-minute file take 45 s with one thread each, and 68 s
    with two threads of the tower beside one of the decoder.

    Attributes:
        decoder: number of threads that decode; None: as many as the codec takes.
        tower: number of PyTorch's threads meanwhile; None: as ever.
    """

    decoder: int | None
    tower: int | None

    @classmethod
    def of(cls, device: torch.device) -> Cores:
        """Half of the cores for each, where the tower is on the host; a tower elsewhere takes none.

        A tower of one thread waits for no other thread, so the decoder may take all cores beside it.
        """
        if device.type != "cpu":
            return cls(None, None)
        with _lock:
            cores = _unshared()
        tower = cores - cores // 2
        return cls(cores if tower == 1 else cores // 2, tower)

    @contextmanager
    def shared(self, busy: Callable[[], bool]) -> Iterator[Callable[[], None]]:
        """Limit PyTorch's threads within the block while `busy` says that the decoder works.

        The function that it yields asks `busy` again. Leaving the block restores the number of threads.
        """
        if self.tower is None:
            yield lambda: None
            return
        with _lock:
            before = _unshared()
            _sharing.append(before)
        limited = self.tower

        def ask() -> None:
            wanted = limited if busy() else before
            if wanted != torch.get_num_threads():
                torch.set_num_threads(wanted)

        try:
            ask()
            yield ask
        finally:
            with _lock:
                _sharing.pop()
                torch.set_num_threads(before)
