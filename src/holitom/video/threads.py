"""Apply a function to the frames of a video in several threads, and count the cores for them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mapped(
    work: Callable[[T], R], items: Iterable[T], threads: int | None = None
) -> Generator[R, None, None]:
    """Yield `work(item)` of each item, in the order of the items, computed in several threads.

    The calling thread takes the items one after another, so that it can decode a frame while others are
    resized. At most `2 * threads` items are in memory whose results were not taken.

    Args:
        work: a function that several threads may call at once; PyTorch's and PyAV's operations release
            Python's lock.
        items: its arguments.
        threads: number of threads, at least 1; one calls `work` in the calling thread. Default: as many as
            PyTorch computes with.
    """
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    if threads < 2:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "holitom-frames") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
