"""Decode the wanted frames of a file, and as few others as possible.

Two functions give the same frames. `by_table` identifies each frame by its timestamp: it decodes from the
keyframe before a wanted frame, or continues from the last one if that is less work, and skips pictures that
no other refers to. It checks every packet and every frame against the table, and a difference raises
`UntrustedError`. `straight` decodes every frame and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.container import InputContainer

from holitom.video.packets import MISSING, Packets

Progress = Callable[[int, int], None]
"""Called with (frames decoded so far, frames to decode) while a video is decoded."""

OPENING = 16
"""Number of packets that are always decoded first, to check that their frames agree with the table."""

SEEK_COST = 8
"""Number of packets that are decoded in the time of a seek."""

CAN_SKIP = frozenset({"h264"})
"""Decoders that can skip unreferenced pictures without changing later ones."""


class UntrustedError(Exception):
    """A packet or frame does not agree with the table; the message says how."""


@dataclass
class Work:
    """Counts of the work of decoding.

    Attributes:
        packets: number of decoded packets.
        seeks: number of seeks in the file.
    """

    packets: int = 0
    seeks: int = 0


@dataclass
class Run:
    """A stretch of packets that are decoded one after another, from an entry on.

    Attributes:
        first, last: numbers of the first and the last packet in the file.
        wanted: number of the wanted frame by the number of its packet.
    """

    first: int
    last: int
    wanted: dict[int, int] = field(default_factory=dict)

    def wants(self, packets: Packets, number: int) -> bool:
        """Whether frame `number` is wanted."""
        return self.wanted.get(int(packets.display[number])) == number


def runs(packets: Packets, wanted: Sequence[int], enough: int | None = None) -> list[Run]:
    """Plan the stretches of packets, each from an entry on, that give the frames `wanted` (rising).

    Args:
        packets: the file's packets.
        wanted: numbers of frames.
        enough: number of packets from which on a stretch ends where the next wanted frame has an entry of
            its own. None: it goes on where that is as little work as a seek.
    """
    entries = packets.entries
    out = [Run(0, min(OPENING, len(packets.pts)) - 1)]
    for number in wanted:
        packet = int(packets.display[number])
        pts = packets.pts[packet]
        near = entries[: np.searchsorted(entries, packet, side="right")]
        entry = int(near[packets.pts[near] <= pts][-1])
        long = enough is not None and out[-1].last - out[-1].first >= enough
        if entry - out[-1].last > (0 if long else SEEK_COST):
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
    """Decode the frames `wanted` (rising), identified by timestamps, and yield them with their numbers.

    Raises:
        UntrustedError: a packet or a frame does not agree with the table.
    """
    to_go = wanted[-1] + 1
    for run in runs(packets, wanted):
        for number, frame in numbered(container, stream, packets, run, work):
            if progress is not None and number < to_go:
                progress(number + 1, to_go)
            if run.wants(packets, number):
                yield number, frame


def numbered(
    container: InputContainer, stream: av.VideoStream, packets: Packets, run: Run, work: Work
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode the frames of one run, wanted or not, and yield them with their numbers.

    Raises:
        UntrustedError: a packet or a frame does not agree with the table.
    """
    rising, before, due = packets.stamps, MISSING, _due(packets, run)
    for frame in _decoded(container, stream, packets, run, work):
        pts = MISSING if frame.pts is None else frame.pts
        number = int(np.searchsorted(rising, pts))
        if pts <= before or number == len(rising) or rising[number] != pts:
            raise UntrustedError("frames do not come out in the order of their timestamps")
        before = pts
        due.discard(pts)
        yield number, frame
    if due:
        raise UntrustedError("fewer frames come out than its packets hold")


def straight(
    container: InputContainer, stream: av.VideoStream, work: Work
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode every frame from the first on, and yield it with its number.

    Packets before the first whole picture, with which a file cut at the front begins, give no frames.
    """
    number = 0
    for packet in _with_data(container, stream):
        work.packets += packet is not None
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.InvalidDataError:
            if number:
                raise
            continue
        for frame in frames:
            yield number, frame
            number += 1


def _with_data(
    container: InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet[av.VideoStream] | None]:
    """Yield the packets that have data, then None, which has a decoder give its last frames.

    Files with frames left out, as AVI files of a varying rate, have packets without data. A decoder would
    take one of them for the end.
    """
    yield from (packet for packet in container.demux(stream) if packet.size)
    yield None


def _decoded(
    container: InputContainer, stream: av.VideoStream, packets: Packets, run: Run, work: Work
) -> Iterator[av.VideoFrame]:
    """Decode the frames of one run, in the order in which they are shown."""
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
    """Seek, and yield the packets from number `first` on with their numbers."""
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
                break  # behind the wanted packet: the next target is an earlier time
            elif i >= 0 and i < len(packets.pts) and (pts, packet.size) != (packets.pts[i], packets.size[i]):
                raise UntrustedError("packets behind a seek differ from those of the whole file")
            if i >= 0 and packet.size:
                yield i, packet
                i += 1
        if i >= 0:
            return
    raise UntrustedError("its index does not lead to the wanted packet")


def _due(packets: Packets, run: Run) -> set[int]:
    """Timestamps of the frames that a run has to give."""
    return {
        int(packets.pts[i])
        for i in range(run.first, run.last + 1)
        if packets.shown[i] and packets.pts[i] >= packets.pts[run.first] and not _skips(packets, run, i)
    }


def _skips(packets: Packets, run: Run, i: int) -> bool:
    """Whether the decoder may skip packet `i` if no other picture refers to it."""
    return packets.codec in CAN_SKIP and i >= OPENING and i not in run.wanted
