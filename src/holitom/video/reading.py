"""The wanted frames of one file, by the quickest way that can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np

from holitom.errors import VideoError
from holitom.video.decoding import Progress, UntrustedError, Work, by_table, straight
from holitom.video.opening import Opened, opened, reason
from holitom.video.sampling import Sampling
from holitom.video.timing import Timeline, settled
from holitom.video.upright import Array

DAMAGED = "parts of it are damaged"


@dataclass(frozen=True)
class Reading:
    """How frames were read.

    Attributes:
        frames: that the file holds.
        decoded: packets that were decoded for the wanted ones.
        seeks: into the file; 0 where it was decoded straight through and its frames counted.
        note: why the file was decoded straight through, where more could have been left out; else None.
    """

    frames: int
    decoded: int
    seeks: int
    note: str | None = None

    def __str__(self) -> str:
        how = f"{self.seeks} seeks" if self.seeks > 1 else "straight through"
        why = f": {self.note}" if self.note else ""
        return f"{self.decoded:,} packets decoded for {self.frames:,} frames, {how}{why}"


class Picture(NamedTuple):
    """A wanted frame: its number, and `[H, W, 3]` uint8 RGB."""

    number: int
    image: Array


class ShortError(Exception):
    """The file gave fewer frames than its packets promised."""


class Source:
    """One file and which of its frames are wanted.

    Attributes:
        numbers: of the frames wanted, rising.
        timeline: times of all its frames.
        doubt: why its packets cannot be trusted to number the frames; None where they can.
    """

    def __init__(self, file: Opened, sampling: Sampling) -> None:
        self.file, self._sampling = file, sampling
        self.timeline: Timeline = file.timeline
        self.numbers: Sequence[int] = sampling.choose(file.file.name, self.timeline)
        self.doubt = file.packets.doubt
        self._damaged = False
        self._work = Work()

    @property
    def total(self) -> int:
        """Frames in the file."""
        return len(self.timeline.seconds)

    @property
    def reading(self) -> Reading:
        """What was done so far."""
        lone = "decoding can begin at its first keyframe only" if len(self.file.packets.entries) < 2 else None
        return Reading(self.total, self._work.packets, self._work.seeks, self.doubt or lone)

    def recount(self) -> None:
        """Decode the file once to know its frames, and choose anew where wanted ones are not there."""
        try:
            seen = [frame.pts for _, frame in self._decoded(Work())]
        except UntrustedError:  # damage: once more, by one thread
            seen = [frame.pts for _, frame in self._decoded(Work())]
        if not seen:
            raise VideoError(f"{self.file.file.name}: holds no frames that can be decoded")
        missing = self.numbers[-1] >= len(seen)
        self._settle(seen, len(seen) if missing else self.total)
        if missing:
            self.numbers = self._sampling.choose(self.file.file.name, self.timeline)

    def pictures(self, progress: Progress | None = None, after: int = -1) -> Iterator[Picture]:
        """The wanted frames with numbers above `after`; their times are in `timeline` once they were read.

        Raises:
            UntrustedError: the file turned out not to be what its packets say; `doubt` is set, and the next
                call decodes straight through.
            ShortError: it holds fewer frames than its packets promise.
            VideoError: it cannot be decoded.
        """
        wanted = [number for number in self.numbers if number > after]
        if not wanted:
            return
        if self.doubt is None:
            try:
                yield from self._by_table(wanted, progress)
            except (UntrustedError, av.error.FFmpegError) as error:
                self._damaged = isinstance(error, av.error.InvalidDataError)
                self.doubt = DAMAGED if self._damaged else _doubt(error)
                self._work = Work()
                raise UntrustedError(self.doubt) from error
        else:
            yield from self._straight(wanted, progress)

    def _by_table(self, wanted: list[int], progress: Progress | None) -> Iterator[Picture]:
        file = self.file
        with opened(file.file, file.stream, strict=True) as (container, stream):
            for number, frame in by_table(container, stream, file.packets, wanted, self._work, progress):
                yield Picture(number, file.view.rgb(frame))

    def _straight(self, wanted: list[int], progress: Progress | None) -> Iterator[Picture]:
        left, to_go = set(wanted), wanted[-1] + 1
        seen: list[int | None] = []
        for number, frame in self._decoded(self._work):
            seen.append(frame.pts)
            if progress is not None:
                progress(number + 1, to_go)
            if number in left:
                left.discard(number)
                yield Picture(number, self.file.view.rgb(frame))
            if not left:
                self._settle(seen, self.total)
                return
        raise ShortError

    def _settle(self, seen: list[int | None], total: int) -> None:
        """The times of frames that were counted replace what the packets say."""
        known, rate = self.timeline, self.timeline.rate
        times = settled(seen, self.file.packets, known)[:total]
        left = known.seconds[len(times) : total]
        if len(left):
            left = left + max(0.0, times[-1] + 1 / rate - left[0])
        seconds = np.concatenate([times, left])
        end = seconds[-1] + 1 / rate
        whole = self.file.packets.timed and total == len(known.seconds)
        self.timeline = Timeline(seconds, max(known.duration, end) if whole else float(end), rate)

    def _decoded(self, work: Work) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames with their numbers, decoded straight through: an error in its data is the file's.

        Raises:
            UntrustedError: several threads came upon damage; the next call decodes by one.
        """
        file = self.file
        try:
            with opened(file.file, file.stream, threads=not self._damaged) as (container, stream):
                for number, frame in straight(container, stream, work):
                    if frame.is_corrupt and not self._damaged:
                        self._damaged, self.doubt, self._work = True, DAMAGED, Work()
                        raise UntrustedError(DAMAGED)
                    yield number, frame
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{file.file.name}: the video is damaged and cannot be decoded ({reason(error)})"
            ) from error


def _doubt(error: UntrustedError | av.error.FFmpegError) -> str:
    return str(error) if isinstance(error, UntrustedError) else f"a seek fails: {reason(error)}"
