"""Read the order in which a decoder gives the pictures of H.264 and HEVC, from their headers.

Timestamps are the container's; a decoder goes by the picture order count in each picture's own header (ITU-T
H.264, 7.3.2.1.1, 7.3.3 and 8.2.1.1; H.265, 7.3.2.2, 7.3.2.3, 7.3.6.1 and 8.3.1). Where the two orders differ,
timestamps do not tell which frame comes out when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Order = tuple[int, int]
"""Place of a picture: its sequence (from an IDR or BLA picture to the next), and its count in it."""

Field = tuple[int, bool]
"""A field: number of its frame, which both of its fields have, and whether it is the bottom one."""

HEADER = 64
"""Bytes of a slice that hold the fields in question."""

SET = 2048
"""Largest number of bytes of a parameter set."""


class Ordering(Protocol):
    """Numbers the pictures of one stream."""

    def keep(self, unit: bytes) -> None:
        """Remember a parameter set."""

    def of(self, unit: bytes) -> Order | None:
        """The place of the picture whose first slice is `unit`; None where the headers do not tell it."""

    def field(self, unit: bytes) -> Field | None:
        """The field that slice `unit` belongs to, where a decoder makes one frame of two fields; None where
        it belongs to a frame, or the headers do not tell it."""


class _UnreadableError(Exception):
    """A header ends early, or has a form that is not read here."""


class _Bits:
    """Fields of a header, from its first bit on; `data` without the unit's own header."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")  # bytes that keep start codes out of units
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def fixed(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise _UnreadableError
        return self._value >> self._left & ((1 << count) - 1)

    def coded(self) -> int:
        """An unsigned number in Exp-Golomb code."""
        zeros = self._left - (self._value & ((1 << self._left) - 1)).bit_length()
        return self.fixed(2 * zeros + 1) - 1

    def signed(self) -> int:
        """A signed number in Exp-Golomb code."""
        code = self.coded()
        return (code + 1) // 2 if code % 2 else -(code // 2)


class _Counts:
    """Whole picture order counts, of which a slice has the lowest bits."""

    def __init__(self) -> None:
        self._sequence = self._high = self._low = 0

    def begin(self) -> None:
        """Begin a sequence."""
        self._sequence += 1
        self._high = self._low = 0

    def of(self, low: int, bits: int, counts: bool) -> Order:
        """The place of a picture by the lowest `bits` bits of its count; later ones count on if `counts`."""
        period, high = 1 << bits, self._high
        if self._low - low >= period // 2:
            high += period
        elif low - self._low > period // 2:
            high -= period
        if counts:
            self._high, self._low = high, low
        return self._sequence, high + low


@dataclass(frozen=True)
class _Sequence:
    """What a sequence parameter set says of slice headers.

    Attributes:
        number_bits: bits of a frame's number.
        count_bits: bits of a picture's count; None where slice headers hold none.
        ordered: whether pictures without a count are shown in the order of decoding.
        fields: whether pictures may be fields.
        planes: whether the three colours are coded apart.
    """

    number_bits: int
    count_bits: int | None
    ordered: bool
    fields: bool
    planes: bool


HIGH = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Profiles of H.264 whose sequence parameter sets state the chroma format."""


class H264Order:
    """`Ordering` of H.264."""

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}
        self._counts = _Counts()

    def keep(self, unit: bytes) -> None:
        try:
            bits = _Bits(unit[1:SET])
            if unit[0] & 31 == 7:
                self._keep_sequence(bits)
            else:
                number = bits.coded()
                self._pictures[number] = bits.coded()
        except _UnreadableError:
            return

    def _keep_sequence(self, bits: _Bits) -> None:
        profile = bits.fixed(8)
        bits.fixed(16)
        number, planes = bits.coded(), False
        if profile in HIGH:
            chroma = bits.coded()
            planes = chroma == 3 and bool(bits.fixed(1))
            bits.coded()
            bits.coded()
            bits.fixed(1)
            if bits.fixed(1):
                _skip_scaling(bits, 12 if chroma == 3 else 8)
        number_bits, kind = bits.coded() + 4, bits.coded()
        count_bits = bits.coded() + 4 if kind == 0 else None
        if kind == 1:
            bits.fixed(1)
            bits.coded()
            bits.coded()
            for _ in range(bits.coded()):
                bits.coded()
        bits.coded()
        bits.fixed(1)
        bits.coded()
        bits.coded()
        self._sequences[number] = _Sequence(number_bits, count_bits, kind == 2, not bits.fixed(1), planes)

    def of(self, unit: bytes) -> Order | None:
        try:
            return self._order(unit[0] & 31 == 5, bool(unit[0] >> 5 & 3), _Bits(unit[1:HEADER]))
        except (_UnreadableError, KeyError):
            return None

    def field(self, unit: bytes) -> Field | None:
        if not any(sequence.fields for sequence in self._sequences.values()):
            return None
        try:
            return self._begin(_Bits(unit[1:HEADER]))[1]
        except (_UnreadableError, KeyError):
            return None

    def _begin(self, bits: _Bits) -> tuple[_Sequence, Field | None]:
        """Read a slice's header up to its field, and return what its sequence says, and the field."""
        bits.coded()
        bits.coded()
        sequence = self._sequences[self._pictures[bits.coded()]]
        bits.fixed(2 * sequence.planes)
        number = bits.fixed(sequence.number_bits)
        return sequence, (number, bool(bits.fixed(1))) if sequence.fields and bits.fixed(1) else None

    def _order(self, first: bool, reference: bool, bits: _Bits) -> Order:
        sequence, _ = self._begin(bits)
        if first:
            bits.coded()
            self._counts.begin()
        if sequence.ordered:
            return self._counts.of(0, 4, True)
        if sequence.count_bits is None:
            raise _UnreadableError
        return self._counts.of(bits.fixed(sequence.count_bits), sequence.count_bits, reference)


def _skip_scaling(bits: _Bits, lists: int) -> None:
    """Read over the scaling matrices of a sequence parameter set of H.264 (7.3.2.1.1.1)."""
    for i in range(lists):
        if not bits.fixed(1):
            continue
        last = following = 8
        for _ in range(16 if i < 6 else 64):
            if following:
                following = (last + bits.signed()) % 256
            last = following or last


HEVC_SEQUENCE, HEVC_PICTURE = 33, 34
HEVC_ENTRY, HEVC_BEGINNING, HEVC_IDR = range(16, 24), range(16, 21), (19, 20)  # BLA and IDR begin a sequence


@dataclass(frozen=True)
class _Picture:
    """What a picture parameter set of HEVC says of slice headers.

    Attributes:
        sequence: number of its sequence parameter set.
        hidden: whether pictures may be decoded without being shown.
        extra_bits: bits of fields without a meaning.
    """

    sequence: int
    hidden: bool
    extra_bits: int


class HEVCOrder:
    """`Ordering` of HEVC."""

    def __init__(self) -> None:
        self._sequences: dict[int, tuple[int, bool]] = {}  # bits of a picture's count; colours coded apart
        self._pictures: dict[int, _Picture] = {}
        self._counts = _Counts()

    def keep(self, unit: bytes) -> None:
        kind, bits = unit[0] >> 1 & 63, _Bits(unit[2:SET])
        try:
            if kind == HEVC_SEQUENCE:
                self._keep_sequence(bits)
            elif kind == HEVC_PICTURE:
                number, sequence = bits.coded(), bits.coded()
                bits.fixed(1)
                self._pictures[number] = _Picture(sequence, bool(bits.fixed(1)), bits.fixed(3))
        except _UnreadableError:
            return

    def _keep_sequence(self, bits: _Bits) -> None:
        bits.fixed(4)
        layers = bits.fixed(3)
        bits.fixed(1)
        bits.fixed(96)  # profile and level
        stated = [(bits.fixed(1), bits.fixed(1)) for _ in range(layers)]
        if layers:
            bits.fixed(2 * (8 - layers))
        for profile, level in stated:
            bits.fixed(88 * profile + 8 * level)
        number, planes = bits.coded(), False
        if bits.coded() == 3:
            planes = bool(bits.fixed(1))
        bits.coded()
        bits.coded()
        if bits.fixed(1):
            for _ in range(4):  # cropping
                bits.coded()
        bits.coded()
        bits.coded()
        self._sequences[number] = (bits.coded() + 4, planes)

    def of(self, unit: bytes) -> Order | None:
        try:
            return self._order(unit[0] >> 1 & 63, (unit[1] & 7) - 1, _Bits(unit[2:HEADER]))
        except (_UnreadableError, KeyError):
            return None

    def _order(self, kind: int, layer: int, bits: _Bits) -> Order:
        bits.fixed(1)
        if kind in HEVC_ENTRY and bits.fixed(1):  # it drops earlier pictures that were not shown yet
            raise _UnreadableError
        picture = self._pictures[bits.coded()]
        count_bits, planes = self._sequences[picture.sequence]
        bits.fixed(picture.extra_bits)
        bits.coded()
        if picture.hidden and not bits.fixed(1):  # this one is never shown
            raise _UnreadableError
        bits.fixed(2 * planes)
        if kind in HEVC_BEGINNING:
            self._counts.begin()
        low = 0 if kind in HEVC_IDR else bits.fixed(count_bits)
        leading, unreferenced = 6 <= kind <= 9, kind < 16 and kind % 2 == 0
        return self._counts.of(low, count_bits, layer == 0 and not leading and not unreferenced)

    def field(self, unit: bytes) -> Field | None:
        return None  # decoders give each field as a frame
