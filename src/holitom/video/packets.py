"""A file's packets, walked through without decoding: how many frames, when, and where decoding may begin.

Headers cannot be trusted for these: Matroska, WebM and MPEG-TS state no number of frames, a trimmed MP4
states too many, and any index may lie. The walk costs one read of the file, little beside decoding it.
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
        codec: its name.
        tick: seconds in a unit of its timestamps.
        pts, dts, duration: `[P]` int64 in ticks; `MISSING` where the file states none.
        size: `[P]` int64, bytes.
        shown: `[P]` bool, whether a packet gives a frame to show.
        discarded: whether the file's edit list leaves packets out.
        checked: whether keyframes of this codec can be checked.
        fresh: `[P]` bool, whether decoding may begin there, by the packet's own data.
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
        """Frames to be shown."""
        return int(self.shown.sum())

    @cached_property
    def display(self) -> NDArray[np.int64]:
        """`[total]`: the packet of each frame, in the order of showing."""
        shown = np.flatnonzero(self.shown)
        return shown[np.argsort(self.pts[shown], kind="stable")]

    @cached_property
    def jumps_back(self) -> bool:
        """Whether timestamps of decoding fall: files put behind one another, a clock that was set back."""
        dts = self.dts[self.dts != MISSING]
        return bool((np.diff(dts) < 0).any())

    @property
    def timed(self) -> bool:
        """Whether the timestamps, put in order, tell when frames are shown."""
        return not self.jumps_back and not (self.pts[self.shown] == MISSING).any()

    @cached_property
    def doubt(self) -> str | None:
        """Why the timestamps cannot number the frames; None where they can."""
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
        """Packets at which decoding may begin: fresh ones that part earlier frames from later ones."""
        timed = np.where(self.shown, self.pts, MISSING)
        before = np.concatenate([[MISSING], np.maximum.accumulate(timed)[:-1]])
        timed = np.where(self.shown, self.pts, np.iinfo(np.int64).max)
        after = np.minimum.accumulate(timed[::-1])[::-1]
        whole = self.fresh & self.shown & (before < after)
        if len(whole) and self.pts[0] > after[0]:
            whole[0] = False  # frames that come before the first keyframe refer to what is not there
        return np.flatnonzero(whole)


class Walk:
    """Gathers one stream's packets."""

    def __init__(self, stream: av.VideoStream) -> None:
        self.stream = stream
        self._reader: Reader | None = reader_for(stream)
        self._rows: list[tuple[int, int, int, int, bool, bool]] = []
        self._discarded = False

    @property
    def shown(self) -> int:
        """Frames to be shown so far."""
        return sum(row[4] for row in self._rows)

    @property
    def stamped(self) -> bool:
        """Whether any packet has a timestamp."""
        return any(row[0] != MISSING for row in self._rows)

    def add(self, packet: av.Packet[av.VideoStream]) -> None:
        """Take one packet down."""
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
        """All that were taken down."""
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
