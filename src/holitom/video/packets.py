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
from holitom.video.picture_order import Order

SHOWN = hasattr(av.Packet, "iter_sidedata")
"""Whether this PyAV shows the data beside a packet."""

MISSING = int(np.iinfo(np.int64).min)
"""Stands for a timestamp that the file does not state."""


SETTINGS = frozenset({"new_extradata", "palette", "param_change"})
"""Data beside a packet that a decoder keeps for later packets; a seek behind it would leave it out."""

WITH_SETTINGS = frozenset({"flv", "avi"})
"""Containers that may hold `SETTINGS`. PyAV shows them from version 16 on; lmms-eval needs an older one."""


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
        changed: the reason why packets bring, or may bring, other settings of the decoder than the header's;
            None where they do not.
        whole: whether no packet holds one of the two fields of a frame alone.
        checked: whether keyframes of this codec can be checked.
        fresh: `[P]` bool: whether decoding may begin at a packet, by its own data.
        order: `[P, 2]` int64: place of its picture among those that a decoder gives; None where not known.
    """

    codec: str
    tick: Fraction
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    size: NDArray[np.int64]
    shown: NDArray[np.bool_]
    discarded: bool
    changed: str | None
    whole: bool
    checked: bool
    fresh: NDArray[np.bool_]
    order: NDArray[np.int64] | None

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
    def stamps(self) -> NDArray[np.int64]:
        """Timestamp of each frame, `[total]`, in the order in which frames are shown."""
        return self.pts[self.display]

    @cached_property
    def jumps_back(self) -> bool:
        """Whether decoding timestamps fall, as in concatenated files and after a clock was set back."""
        dts = self.dts[self.dts != MISSING]
        return bool((np.diff(dts) < 0).any())

    @property
    def misordered(self) -> bool:
        """Whether a decoder gives frames in another order than that of their timestamps."""
        if self.order is None:
            return False
        shown = np.flatnonzero(self.shown)
        sequence, count = self.order[shown].T
        return not np.array_equal(shown[np.lexsort((count, sequence))], self.display)

    @cached_property
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
        if self.misordered:
            return "timestamps are in another order than its frames"
        if self.changed is not None:
            return self.changed
        if not self.whole:
            return "packets hold single fields of frames"
        if not self.checked:
            return f"keyframes of {self.codec} cannot be checked"
        if self.order is None:
            return "the order of its frames cannot be read"
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
        self._orders: list[Order | None] = []
        self._discarded, self._changed = False, None if SHOWN else self._hidden()
        self._header = stream.codec_context.extradata or b""
        self._whole = True

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
        if SHOWN and self._brings_others(packet):
            self._changed = "the decoder's settings change"
        marked = bool(packet.is_keyframe)
        kind = Kind(marked, order=None) if self._reader is None else self._reader(bytes(packet), marked)
        self._whole = self._whole and kind.whole
        self._orders.append(kind.order)
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

    def _hidden(self) -> str | None:
        """Doubt a container whose packets may have settings beside them that this PyAV does not show."""
        name = self.stream.container.format.name
        return f"settings beside packets of {name} need PyAV 16" if name in WITH_SETTINGS else None

    def _brings_others(self, packet: av.Packet[av.VideoStream]) -> bool:
        """Whether the settings beside a packet are not those of the file's header."""
        return any(
            side.data_type in SETTINGS and bytes(side) != self._header for side in packet.iter_sidedata()
        )

    def packets(self) -> Packets:
        """All packets added so far."""
        numbers = np.array([row[:4] for row in self._rows], np.int64).reshape(-1, 4)
        marks = np.array([row[4:] for row in self._rows], bool).reshape(-1, 2)
        orders = [order for order in self._orders if order is not None]
        known = np.array(orders, np.int64).reshape(-1, 2) if len(orders) == len(self._rows) else None
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
            self._changed,
            self._whole,
            self._reader is not None,
            marks[:, 1],
            known,
        )
