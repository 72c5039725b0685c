"""Read a file's packets without decoding: the number of frames, their times, and where decoding may begin.

Headers do not state these reliably: Matroska, WebM and MPEG-TS state no number of frames, a trimmed MP4
states too many, and an index may be wrong. Reading all packets takes little time compared with decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import av
import numpy as np
from numpy.typing import NDArray

from holitom.video.keyframes import Kind, Reader, reader_for

MISSING = int(np.iinfo(np.int64).min)
"""Stands for a timestamp that the file does not state."""


@dataclass(frozen=True)
class Packets:
    """One video stream's packets in the order of the file, which is the order of decoding.

    Attributes:
        codec: name of the codec.
        tick: seconds in a unit of timestamps.
        pts, dts, duration: `[P]` int64 in ticks; `MISSING` where the file states none.
        size: `[P]` int64, in bytes.
        shown: `[P]` bool: whether a packet gives a frame to show.
        discarded: whether the file's edit list leaves packets out.
        checked: whether keyframes of this codec can be checked.
        fresh: `[P]` bool: whether decoding may begin at a packet, by its own data.
    """

    codec: str
    tick: Fraction
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    size: NDArray[np.int64]
    shown: NDArray[np.bool_]
    discarded: bool
    checked: bool
    fresh: NDArray[np.bool_]

    @property
    def total(self) -> int:
        """Number of frames to show."""
        return int(self.shown.sum())

    @cached_property
    def display(self) -> NDArray[np.int64]:
        """Number of each frame's packet, `[total]`, in the order in which frames are shown."""
        shown = np.flatnonzero(self.shown)
        return shown[np.argsort(self.pts[shown], kind="stable")]

    @cached_property
    def jumps_back(self) -> bool:
        """Whether decoding timestamps fall, as in concatenated files and after a clock was set back."""
        dts = self.dts[self.dts != MISSING]
        return bool((np.diff(dts) < 0).any())

    @property
    def timed(self) -> bool:
        """Whether the sorted timestamps are the times at which frames are shown."""
        return not self.jumps_back and not (self.pts[self.shown] == MISSING).any()

    @cached_property
    def doubt(self) -> str | None:
        """The reason why timestamps do not identify frames; None where they do."""
        shown = self.pts[self.shown]
        if self.discarded:
            return "its edit list leaves frames out"
        if (shown == MISSING).any():
            return "timestamps are missing"
        if len(np.unique(shown)) < len(shown):
            return "frames share a timestamp"
        if self.jumps_back:
            return "timestamps jump back"
        if not self.checked:
            return f"keyframes of {self.codec} cannot be checked"
        if not len(self.entries) or self.entries[0] != 0:
            return "it does not begin with a whole picture"
        return None

    @cached_property
    def entries(self) -> NDArray[np.int64]:
        """Packets at which decoding may begin: fresh ones behind all earlier frames and before all later
        ones."""
        timed = np.where(self.shown, self.pts, MISSING)
        before = np.concatenate([[MISSING], np.maximum.accumulate(timed)[:-1]])
        timed = np.where(self.shown, self.pts, np.iinfo(np.int64).max)
        after = np.minimum.accumulate(timed[::-1])[::-1]
        whole = self.fresh & self.shown & (before < after)
        if len(whole) and self.pts[0] > after[0]:
            whole[0] = False  # frames shown before the first keyframe refer to pictures that are missing
        return np.flatnonzero(whole)


class Walk:
    """Collects one stream's packets."""

    def __init__(self, stream: av.VideoStream) -> None:
        self.stream = stream
        self._reader: Reader | None = reader_for(stream)
        self._rows: list[tuple[int, int, int, int, bool, bool]] = []
        self._discarded = False

    @property
    def shown(self) -> int:
        """Number of frames to show so far."""
        return sum(row[4] for row in self._rows)

    @property
    def stamped(self) -> bool:
        """Whether any packet has a timestamp."""
        return any(row[0] != MISSING for row in self._rows)

    def add(self, packet: av.Packet[av.VideoStream]) -> None:
        """Add one packet."""
        if packet.is_discard:
            self._discarded = True
            return
        marked = bool(packet.is_keyframe)
        kind = Kind(marked) if self._reader is None else self._reader(bytes(packet), marked)
        self._rows.append(
            (
                MISSING if packet.pts is None else packet.pts,
                MISSING if packet.dts is None else packet.dts,
                packet.duration or 0,
                packet.size,
                kind.shown,
                kind.fresh,
            )
        )

    def packets(self) -> Packets:
        """All packets added so far."""
        numbers = np.array([row[:4] for row in self._rows], np.int64).reshape(-1, 4)
        marks = np.array([row[4:] for row in self._rows], bool).reshape(-1, 2)
        tick = self.stream.time_base or Fraction(1)
        pts, dts, duration, size = numbers.T
        return Packets(
            self.stream.codec_context.name,
            tick,
            pts,
            dts,
            duration,
            size,
            marks[:, 0],
            self._discarded,
            self._reader is not None,
            marks[:, 1],
        )
