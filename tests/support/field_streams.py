"""H.264 streams of uncompressed macroblocks, since x264 codes no field as a picture of its own.

Syntax: ITU-T H.264, 7.3.2.1.1 (sequence), 7.3.2.2 (picture), 7.3.3 (slice) and 7.3.5 (macroblock).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

MACROBLOCKS = 2
"""Macroblocks of a field: frames are 32 x 32 pixels."""


class _Bits:
    def __init__(self) -> None:
        self.text = ""

    def fixed(self, value: int, count: int = 1) -> _Bits:
        self.text += f"{value:0{count}b}"
        return self

    def coded(self, *values: int) -> _Bits:
        for value in values:
            self.fixed(value + 1, 2 * (value + 1).bit_length() - 1)
        return self

    def aligned(self) -> _Bits:
        self.text += "0" * (-len(self.text) % 8)
        return self

    def unit(self, reference: bool, kind: int) -> bytes:
        text = self.fixed(1).aligned().text
        data = bytearray()
        for byte in int(text, 2).to_bytes(len(text) // 8, "big"):
            if byte <= 3 and data[-2:] == b"\0\0":
                data.append(3)
            data.append(byte)
        return bytes([0, 0, 0, 1, 96 * reference + kind]) + data


def parameter_sets(counted: int) -> bytes:
    """Sequence and picture parameter set; `counted`: the sequence's pic_order_cnt_type, 0, 1 or 2."""
    bits = _Bits().fixed(77, 8).fixed(30, 16).coded(0, 4, counted)
    if counted == 0:
        bits.coded(4)
    if counted == 1:
        bits.fixed(1).coded(0, 1, 1, 3)  # no differences, offsets 0 and 1, one reference frame: 2 later
    sequence = bits.coded(4).fixed(0).coded(1, 0).fixed(0b001000, 6)
    picture = _Bits().coded(0, 0).fixed(0, 2).coded(0, 0, 0).fixed(0, 3).coded(0, 0, 0).fixed(0b100, 3)
    return sequence.unit(True, 7) + picture.unit(True, 8)


def picture(number: int, count: int | None, begins: bool, reference: bool, field: int | None) -> bytes:
    """A frame, or one field of it (0 top, 1 bottom), in one colour that its number and field decide."""
    bits = _Bits().coded(0, 7, 0).fixed(number, 8).fixed(field is not None)
    if field is not None:
        bits.fixed(field)
    if begins:
        bits.coded(0)
    if count is not None:
        bits.fixed(count, 8)
    if reference:
        bits.fixed(0, 2 if begins else 1)
    bits.coded(0, 1)
    for _ in range(MACROBLOCKS if field is not None else 2 * MACROBLOCKS):
        bits.coded(25).aligned()
        for level in [16 + (7 * number + 3 * bool(field)) % 200] * 256 + [128] * 128:
            bits.fixed(level, 8)
    return bits.unit(reference, 5 if begins else 1)


def write_fields(
    path: Path,
    frames: int,
    in_fields: Callable[[int], bool],
    *,
    together: bool = False,
    lone: Callable[[int], bool] = lambda frame: False,
    counted: int = 0,
    group: int = 20,
) -> Path:
    """Write a video of 25 frames a second, some of which are coded as two fields.

    Args:
        path: path of the file.
        frames: number of frames.
        in_fields: whether a frame is two fields.
        together: whether both fields of a frame are in one packet.
        lone: whether a frame in fields has no second one.
        counted: how the order of pictures is coded.
        group: frames from one IDR picture to the next.
    """
    sets = parameter_sets(counted)
    raw = path.with_suffix(".h264")
    packets: list[tuple[int, int, bytes]] = []
    for frame in range(frames):
        number = frame % group
        parts = []
        for field in (0, 1)[: 2 - lone(frame)] if in_fields(frame) else (None,):
            begins = number == 0 and not field
            count = 2 * number + bool(field) if counted == 0 else None
            data = picture(number, count, begins, True, field)
            parts.append(sets + data if begins else data)
        if together:
            parts = [b"".join(parts)]
        length = 3600 // len(parts)
        packets += [(3600 * frame + length * i, length, part) for i, part in enumerate(parts)]
    raw.write_bytes(b"".join(data for _, _, data in packets))
    with av.open(str(raw)) as reader, av.open(str(path), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for time, length, data in packets:
            packet = av.Packet(data)
            packet.duration, packet.is_keyframe = length, data.startswith(sets)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 90000), time, time
            writer.mux(packet)
    return path
