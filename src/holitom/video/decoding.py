"""Decoding the wanted frames of a file and little else.

Two ways lead to the same frames. `by_table` knows each frame by its timestamp: it decodes from the keyframe
before a wanted frame, or on from where it is where that is less, and leaves out pictures that no other
refers to. It checks every packet against the table and every frame that comes out; what does not agree
raises `UntrustedError`. `straight` decodes every frame and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.container import InputContainer

from holitom.video.packets import MISSING, Packets

Progress = Callable[[int, int], None]
"""Called with (frames gone through, frames to go through) while a video is decoded."""

OPENING = 16
"""Packets that are decoded first, whatever is wanted, to see that frames come out as the table says."""

SEEK_COST = 8
"""Packets that could be decoded in the time that a seek takes."""

CAN_SKIP = frozenset({"h264"})
"""Decoders that leave out unreferenced pictures without any trace in later ones."""


class UntrustedError(Exception):
    """What was read does not agree with the table; the message says how."""


@dataclass
class Work:
    """What decoding did.

    Attributes:
        packets: that were decoded.
        seeks: into the file.
    """

    packets: int = 0
    seeks: int = 0


@dataclass
class Run:
    """Packets decoded in a row, from an entry on.

    Attributes:
        first, last: their numbers in the file.
        wanted: packet -> number of the frame that it gives.
    """

    first: int
    last: int
    wanted: dict[int, int] = field(default_factory=dict)


def runs(packets: Packets, wanted: Sequence[int]) -> list[Run]:
    """The least work that gives the frames `wanted` (rising): stretches that begin at entries."""
    entries = packets.entries
    out = [Run(0, min(OPENING, len(packets.pts)) - 1)]
    for number in wanted:
        packet = int(packets.display[number])
        pts = packets.pts[packet]
        near = entries[: np.searchsorted(entries, packet, side="right")]
        entry = int(near[packets.pts[near] <= pts][-1])
        if entry - out[-1].last > SEEK_COST:
            out.append(Run(entry, packet))
        out[-1].last = max(out[-1].last, packet)
        out[-1].wanted[packet] = number
    return out


def by_table(
    container: InputContainer,
    stream: av.VideoStream,
    packets: Packets,
    wanted: Sequence[int],
    work: Work,
    progress: Progress | None = None,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode the frames `wanted` (rising), each known by its timestamp, and yield them with their numbers.

    Raises:
        UntrustedError: a packet or a frame is not the one that the table names.
    """
    rising = packets.pts[packets.display]
    to_go = wanted[-1] + 1
    for run in runs(packets, wanted):
        before = MISSING
        due = _due(packets, run)
        for frame in _decoded(container, stream, packets, run, work):
            pts = MISSING if frame.pts is None else frame.pts
            number = int(np.searchsorted(rising, pts))
            if pts <= before or number == len(rising) or rising[number] != pts:
                raise UntrustedError("frames come out otherwise than its timestamps say")
            before = pts
            due.discard(pts)
            if progress is not None and number < to_go:
                progress(number + 1, to_go)
            if run.wanted.get(int(packets.display[number])) == number:
                yield number, frame
        if due:
            raise UntrustedError("frames that its packets promise do not come out")


def straight(
    container: InputContainer, stream: av.VideoStream, work: Work
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode every frame from the first on, and yield it with its number.

    Packets before the first whole picture, which a file cut at the front begins with, give none.
    """
    number = 0
    for packet in container.demux(stream):
        work.packets += bool(packet.size)
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if number:
                raise
            continue
        for frame in frames:
            yield number, frame
            number += 1


def _decoded(
    container: InputContainer, stream: av.VideoStream, packets: Packets, run: Run, work: Work
) -> Iterator[av.VideoFrame]:
    """The frames of one run, in the order of showing."""
    context = stream.codec_context
    for i, packet in _packets(container, stream, packets, run.first):
        skip = _skips(packets, run, i)
        context.skip_frame = "NONREF" if skip else "DEFAULT"
        work.packets += 1
        yield from context.decode(packet)
        if i == run.last:
            break
    work.seeks += 1
    yield from context.decode(None)


def _packets(
    container: InputContainer, stream: av.VideoStream, packets: Packets, first: int
) -> Iterator[tuple[int, av.Packet[av.VideoStream]]]:
    """The packets from number `first` on, with their numbers, after a seek."""
    begin = int(packets.pts[first])
    for target in (begin, int(packets.dts[first]), int(packets.pts.min())):
        if target == MISSING:
            continue
        container.seek(target, stream=stream)
        i = -1
        for packet in container.demux(stream):
            pts = MISSING if packet.pts is None else packet.pts
            if i < 0 and pts == begin and packet.size == packets.size[first]:
                i = first
            elif i < 0 and pts > begin:
                break  # too far: a seek to an earlier time may land before
            elif i >= 0 and i < len(packets.pts) and (pts, packet.size) != (packets.pts[i], packets.size[i]):
                raise UntrustedError("a seek gives other packets than reading does")
            if i >= 0 and packet.size:
                yield i, packet
                i += 1
        if i >= 0:
            return
    raise UntrustedError("its index leads elsewhere")


def _due(packets: Packets, run: Run) -> set[int]:
    """Timestamps of the frames that a run must give."""
    return {
        int(packets.pts[i])
        for i in range(run.first, run.last + 1)
        if packets.shown[i] and packets.pts[i] >= packets.pts[run.first] and not _skips(packets, run, i)
    }


def _skips(packets: Packets, run: Run, i: int) -> bool:
    """Whether packet `i` is left out where no other refers to its picture."""
    return packets.codec in CAN_SKIP and i >= OPENING and i not in run.wanted
