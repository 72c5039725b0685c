"""Read the wanted frames of one file, by seeking where its packets allow, else by decoding every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import av
import numpy as np

from holitom.errors import VideoError
from holitom.video.decoding import Progress, UntrustedError, Work, by_table, straight
from holitom.video.opening import Opened, opened, reason
from holitom.video.sampling import Sampling
from holitom.video.timing import Timeline, settled
from holitom.video.upright import Array

T = TypeVar("T")

DAMAGED = "parts of it are damaged"

TRIES = 4
"""By the table of packets, straight through, with one thread, and with counting: each way is tried once."""


@dataclass(frozen=True)
class Reading:
    """A record of how frames were read.

    Attributes:
        frames: number of frames in the file.
        decoded: number of decoded packets.
        seeks: number of seeks; 0 where every frame was decoded and counted.
        note: the reason for decoding every frame; None where seeking was possible.
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
    """The file has fewer frames than its packets state."""


class Source:
    """One file and the frames to read of it.

    Attributes:
        numbers: numbers of the wanted frames, rising.
        timeline: times of all its frames.
        doubt: the reason why its packets do not identify frames; None where they do.
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
        """Number of frames in the file."""
        return len(self.timeline.seconds)

    @property
    def reading(self) -> Reading:
        """The record of reading so far."""
        lone = "decoding can begin at its first keyframe only" if len(self.file.packets.entries) < 2 else None
        return Reading(self.total, self._work.packets, self._work.seeks, self.doubt or lone)

    def tried(self, attempt: Callable[[], T]) -> T:
        """Return what `attempt` reads, and try anew while the file disagrees with what is known of it.

        Raises:
            VideoError: no try succeeds, or the file cannot be read.
        """
        for _ in range(TRIES):
            try:
                return attempt()
            except UntrustedError:
                continue
            except ShortError:
                self.recount()
        raise VideoError(f"{self.file.file.name}: gives different frames each time it is decoded")

    def recount(self) -> None:
        """Decode the file once to count its frames, and choose frames anew if wanted ones are missing."""
        try:
            seen = [frame.pts for _, frame in self._decoded(Work())]
        except UntrustedError:  # the file is damaged, so it is decoded again by one thread
            seen = [frame.pts for _, frame in self._decoded(Work())]
        if not seen:
            raise VideoError(f"{self.file.file.name}: holds no frames that can be decoded")
        missing = self.numbers[-1] >= len(seen)
        self._settle(seen, len(seen) if missing else self.total)
        if missing:
            self.numbers = self._sampling.choose(self.file.file.name, self.timeline)

    def pictures(
        self, progress: Progress | None = None, after: int = -1, threads: int | None = None
    ) -> Iterator[Picture]:
        """Yield the wanted frames with numbers above `after`; `timeline` has their times afterwards.

        Args:
            progress: called with the number of frames decoded and the number to decode.
            after: frames up to this number are left out.
            threads: largest number of threads of the decoder; None: as many as the codec takes.

        Raises:
            UntrustedError: the file does not agree with its packets; `doubt` is set, and the next call
                decodes every frame.
            ShortError: the file has fewer frames than its packets state.
            VideoError: it cannot be decoded.
        """
        wanted = [number for number in self.numbers if number > after]
        if not wanted:
            return
        if self.doubt is None:
            try:
                yield from self._by_table(wanted, progress, threads)
            except (UntrustedError, av.error.FFmpegError) as error:
                self._damaged = isinstance(error, av.error.InvalidDataError)
                self.doubt = DAMAGED if self._damaged else _doubt(error)
                self._work = Work()
                raise UntrustedError(self.doubt) from error
        else:
            yield from self._straight(wanted, progress, threads)

    def _by_table(
        self, wanted: list[int], progress: Progress | None, threads: int | None
    ) -> Iterator[Picture]:
        file = self.file
        with opened(file.file, file.stream, strict=True, threads=threads) as (container, stream):
            for number, frame in by_table(container, stream, file.packets, wanted, self._work, progress):
                yield Picture(number, file.view.rgb(frame))

    def _straight(
        self, wanted: list[int], progress: Progress | None, threads: int | None
    ) -> Iterator[Picture]:
        left, to_go = set(wanted), wanted[-1] + 1
        seen: list[int | None] = []
        for number, frame in self._decoded(self._work, threads):
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
        """Replace times from the packets by those of the frames that were decoded."""
        known, rate = self.timeline, self.timeline.rate
        times = settled(seen, self.file.packets, known)[:total]
        left = known.seconds[len(times) : total]
        if len(left):
            left = left + max(0.0, times[-1] + 1 / rate - left[0])
        seconds = np.concatenate([times, left])
        end = seconds[-1] + 1 / rate
        whole = self.file.packets.timed and total == len(known.seconds)
        self.timeline = Timeline(seconds, max(known.duration, end) if whole else float(end), rate)

    def _decoded(self, work: Work, threads: int | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode all frames, and yield them with their numbers.

        Raises:
            UntrustedError: several threads found damage; the next call decodes by one thread.
            VideoError: the file cannot be decoded.
        """
        file = self.file
        try:
            threads = 1 if self._damaged else threads
            with opened(file.file, file.stream, threads=threads) as (container, stream):
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
