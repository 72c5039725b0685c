"""Decode stretches of a file at the same time, each by a decoder of its own.

A codec's threads wait for one another, since pictures refer to earlier ones; stretches that begin at
different entries do not.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import NamedTuple

import av
from av.container import InputContainer

from holitom.video.decoding import Progress, Run, Work, numbered, runs
from holitom.video.packets import Packets
from holitom.video.threads import cores, mapped

AHEAD_BYTES = 512 * 2**20
"""Largest size of decoded frames in memory that were not taken."""

PIXEL_BYTES = 3
"""Bytes of a pixel of a decoded frame, at most: 4:4:4 in 8 bits, or 4:2:0 in 10."""

WORTH = 64
"""Fewest packets for which a decoder of its own, and a seek more, are worth while."""

Opening = Callable[[int], AbstractContextManager[tuple[InputContainer, av.VideoStream]]]
"""Opens the file, given the number of threads of the decoder."""


class Stretches(NamedTuple):
    """Stretches of a file to be decoded at the same time.

    Attributes:
        runs: the stretches, in the order of the file.
        decoders: number of decoders at work, at least 2.
        threads: number of threads of each decoder.
    """

    runs: list[Run]
    decoders: int
    threads: int


def stretches(
    packets: Packets, wanted: Sequence[int], size: tuple[int, int], threads: int | None
) -> Stretches | None:
    """Plan how to decode the frames `wanted` (rising) by several decoders.

    Args:
        packets: the file's packets.
        wanted: numbers of frames.
        size: width and height of a frame.
        threads: largest number of threads in all; None: as many as there are cores.

    Returns:
        None where one decoder is as good, or where the frames ahead would take too much memory.
    """
    most_threads = cores() if threads is None else threads
    planned = runs(packets, wanted, WORTH)
    work = sum(run.last - run.first + 1 for run in planned)
    most = max(len(run.wanted) for run in planned)
    ahead = AHEAD_BYTES // (2 * most * size[0] * size[1] * PIXEL_BYTES)
    decoders = min(most_threads, len(planned), work // WORTH, ahead)
    return Stretches(planned, decoders, most_threads // decoders) if decoders > 1 else None


def at_once(
    opening: Opening,
    packets: Packets,
    plan: Stretches,
    work: Work,
    progress: Progress | None = None,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode the frames of all stretches and yield them as `by_table` does, with its progress and errors."""
    to_go = max(max(run.wanted.values(), default=0) for run in plan.runs) + 1
    free: deque[tuple[InputContainer, av.VideoStream]] = deque()
    stopped = threading.Event()

    def decode(run: Run) -> tuple[Work, list[tuple[int, av.VideoFrame | None]]]:
        own, found = Work(), []
        try:
            decoder = free.pop()
        except IndexError:
            decoder = files.enter_context(opening(plan.threads))
        for number, frame in numbered(*decoder, packets, run, own):
            if stopped.is_set():
                break
            found.append((number, frame if run.wants(packets, number) else None))
        free.append(decoder)
        return own, found

    with ExitStack() as files, closing(mapped(decode, plan.runs, plan.decoders)) as decoded:
        try:
            for own, found in decoded:
                work.packets += own.packets
                work.seeks += own.seeks
                for number, frame in found:
                    if progress is not None and number < to_go:
                        progress(number + 1, to_go)
                    if frame is not None:
                        yield number, frame
        finally:
            stopped.set()
