"""Packets at which decoding may begin, because their data need no earlier packet.

A container's marks are not enough: containers also mark pictures as keyframes that refer to earlier ones
(open groups of pictures, rewritten indexes), and a decoder that begins there shows other frames without an
error. So the first bytes of each packet are read: H.264 (ITU-T H.264, 7.4.1), HEVC (H.265, 7.4.2), VP8 (RFC
6386, 9.1), VP9 (its bitstream specification, 6.2) and AV1 (its specification, 5.9). In other codecs decoding
may begin at a marked packet only if the codec codes every frame alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av

from holitom.video.picture_order import HEADER, SET, Field, H264Order, HEVCOrder, Order, Ordering

H264_IDR, H264_SLICES, H264_SETS = 5, frozenset({1, 2, 5}), frozenset({7, 8})  # 2: with its data apart
HEVC_ENTRIES, HEVC_SETS = range(16, 22), frozenset({32, 33, 34})  # BLA, IDR, CRA; VPS, SPS, PPS
HEVC_BROKEN, HEVC_LEADING = range(16, 19), frozenset({8, 9})  # BLA; RASL
AV1_SEQUENCE, AV1_FRAME_HEADER, AV1_FRAME = 1, 3, 6


@dataclass(frozen=True)
class Kind:
    """Properties of a packet, from its data.

    Attributes:
        fresh: whether decoding may begin at it.
        shown: whether it gives a frame to show. VP8 and VP9 have packets that only later frames refer to, and
            H.264 and HEVC have some without a picture, with the second field of one, or with one that
            decoders drop.
        order: place of its picture among those that a decoder gives; equal places follow the packets' order.
            None: not known.
        whole: whether it holds whole frames, rather than one of the two fields of a frame.
    """

    fresh: bool
    shown: bool = True
    order: Order | None = (0, 0)
    whole: bool = True


Reader = Callable[[bytes, bool], Kind]
"""A function of a packet's data and of whether the container marks it as a keyframe."""


def reader_for(stream: av.VideoStream) -> Reader | None:
    """The reader of the packets of `stream`; None for a codec whose keyframes cannot be checked."""
    context = stream.codec_context
    name = context.name
    if name in ("h264", "hevc"):
        return _ParameterSets(name, context.extradata or b"")
    if "vp8" in name or name == "libvpx":
        return _vp8
    if "vp9" in name:
        return _vp9
    if "av1" in name:
        return _AV1()
    return _alone if context.codec.intra_only else None


def _alone(data: bytes, marked: bool) -> Kind:
    return Kind(marked)


def _vp8(data: bytes, marked: bool) -> Kind:
    return Kind(marked and not data[0] & 1, bool(data[0] >> 4 & 1))


def _vp9(data: bytes, marked: bool) -> Kind:
    first, last = data[0], data[-1]
    bits = iter(f"{first:08b}"[4 if first >> 4 & 3 < 3 else 5 :])  # behind marker, profile and a reserved bit
    existing = next(bits) == "1"
    if existing:
        return Kind(False)
    key = next(bits) == "0"
    together = last & 0xE0 == 0xC0  # a superframe: hidden frames and one that is shown
    return Kind(marked and key, together or next(bits) == "1")


class _ParameterSets:
    """Reader for H.264 and HEVC: decoding may begin at an entry picture whose parameter sets are known.

    Parameter sets are in the file's header or in the stream. If the stream has some, an entry picture needs
    its own, since those in skipped packets would be missing.

    A packet without a picture (parameter sets or messages alone) gives no frame. Neither does the second
    field of a frame in a packet of its own, nor a leading picture of HEVC that refers to pictures before a
    broken link, where a file was spliced.
    """

    def __init__(self, name: str, header: bytes) -> None:
        self._hevc = name == "hevc"
        self._sets = HEVC_SETS if self._hevc else H264_SETS
        self._bytes = _bytes_of_length(header, self._hevc)
        self._order: Ordering = HEVCOrder() if self._hevc else H264Order()
        for unit in _header_units(header, self._hevc):
            self._order.keep(unit)
        self._brought = self._broken = False
        self._first: Field | None = None  # of a frame whose second field may be in the next packet

    def __call__(self, data: bytes, marked: bool) -> Kind:
        brought: set[int] = set()
        picture, filled, order = -1, False, None
        fields: set[Field] = set()
        for start, end in _units(data, self._bytes):
            kind = data[start] >> 1 & 63 if self._hevc else data[start] & 31
            filled = end == len(data)
            if kind in self._sets:
                brought.add(kind)
                self._order.keep(data[start : min(end, start + SET)])
            elif kind < 32 if self._hevc else kind in H264_SLICES:
                head = data[start : start + HEADER]
                if picture < 0:
                    picture, order = kind, self._order.of(head)
                field = self._order.field(head)
                if field is None or len(fields | {field}) > 1:
                    fields.clear()
                    break
                fields.add(field)
        entry = picture in HEVC_ENTRIES if self._hevc else picture == H264_IDR
        fresh = marked and entry and (not (self._brought or brought) or brought == self._sets)
        self._brought = self._brought or bool(brought)
        if self._hevc and entry:
            self._broken = picture in HEVC_BROKEN
        if picture < 0:
            return Kind(False, shown=False) if filled else Kind(False, order=None)
        dropped = self._hevc and self._broken and picture in HEVC_LEADING
        return Kind(fresh, not dropped and not self._completes(fields), order, not fields)

    def _completes(self, fields: set[Field]) -> bool:
        """Whether a packet holds the second field of the frame that the packet before began.

        `fields` has the only field in the packet; it is empty if the packet holds a whole frame.
        """
        first, self._first = self._first, next(iter(fields), None)
        second = first is not None and self._first == (first[0], not first[1])
        if second:
            self._first = None
        return second


def _bytes_of_length(header: bytes, hevc: bool) -> int:
    """Number of bytes of the length before each unit; 0 where start codes separate units."""
    if header[:3] == b"\0\0\1" or header[:4] == b"\0\0\0\1" or len(header) < 23 * hevc + 5 * (not hevc):
        return 0
    return (header[21 if hevc else 4] & 3) + 1


def _header_units(header: bytes, hevc: bool) -> Iterator[bytes]:
    """Yield the parameter sets in a file's header."""
    if not _bytes_of_length(header, hevc):
        yield from (header[start:end] for start, end in _units(header, 0))
        return
    at, wide = (23, 2) if hevc else (5, 1)
    for _ in range(header[22] if hevc else 2):  # arrays of sets; H.264 has two, without a byte for their kind
        at += hevc
        count = int.from_bytes(header[at : at + wide], "big") & (0xFFFF if hevc else 31)
        at += wide
        for _ in range(count):
            end = at + 2 + int.from_bytes(header[at : at + 2], "big")
            if at + 2 < end <= len(header):
                yield header[at + 2 : end]
            at = end


def _units(data: bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where each unit begins and ends; units between start codes are said to end with the data."""
    if not length_bytes:
        for found in re.finditer(b"\0\0\1(?=.)", data, re.DOTALL):
            yield found.end(), len(data)
        return
    at = 0
    while at + length_bytes < len(data):
        begin = at + length_bytes
        at = begin + int.from_bytes(data[at:begin], "big")
        yield begin, at


class _AV1:
    """Reader for AV1: decoding may begin at a shown key frame with a sequence header of its own, or with the
    only one of the stream."""

    def __init__(self) -> None:
        self._brought = False

    def __call__(self, data: bytes, marked: bool) -> Kind:
        if not marked:
            return Kind(False)
        own = fresh = False
        for kind, body in _obus(data):
            own = own or kind == AV1_SEQUENCE
            if kind in (AV1_FRAME, AV1_FRAME_HEADER) and body:
                # show_existing_frame 0, frame_type 00 (key), show_frame 1
                fresh = body[0] >> 4 == 0b0001
                break
        fresh = fresh and (own or not self._brought)
        self._brought = self._brought or own
        return Kind(fresh)


def _obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type of each unit and the first byte of its body."""
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        size, shift = len(data) - at, 0
        if head & 2:
            size = 0
            while at < len(data):
                size |= (data[at] & 127) << shift
                shift += 7
                at += 1
                if not data[at - 1] & 128:
                    break
        yield head >> 3 & 15, data[at : at + 1]
        at += size
