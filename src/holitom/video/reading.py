"""Read the wanted frames of one file, by seeking where its packets allow, else by decoding every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import av

from holitom.errors import VideoError
from holitom.video.change import CANDIDATES
from holitom.video.choosing import choose_by_change
from holitom.video.decoders import at_once, stretches
from holitom.video.decoding import Progress, UntrustedError, Work, by_table, straight
from holitom.video.opening import Opened, opened, reason
from holitom.video.sampling import Sampling
from holitom.video.timing import Timeline, settled
from holitom.video.upright import Fit, Picture, Shown

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


class Plan(NamedTuple):
    """What is chosen among.

    Attributes:
        candidates: numbers of frames, rising.
        wanted: number of frames to choose; all candidates, unless frames are chosen by change.
    """

    candidates: list[int]
    wanted: int


class MiscountError(Exception):
    """The file has other frames than its packets state, so that others are to be chosen."""


class Source:
    """One file and the frames to read of it.

    Attributes:
        numbers: numbers of the wanted frames, rising; those of the candidates until `choose` was called.
        timeline: times of all its frames.
        doubt: the reason why its packets do not identify frames; None where they do.

    Args:
        file: the file.
        sampling: the frames to choose.
        fit: how candidates are resized that are kept until frames are chosen by change.
        ahead: whether several stretches of the file may be decoded before their frames are taken.
    """

    def __init__(self, file: Opened, sampling: Sampling, fit: Fit | None = None, ahead: bool = True) -> None:
        self.file, self._sampling, self._fit, self._ahead = file, sampling, fit, ahead
        self.timeline: Timeline = file.timeline
        self.doubt = file.packets.doubt
        self._plan = self._planned()
        self.numbers: Sequence[int] = self._plan.candidates
        self._kept: Sequence[Shown] = ()
        self._chosen = self._counted = self._damaged = False
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

    def tried(self, attempt: Callable[[], T], progress: Progress | None = None) -> T:
        """Choose frames, return what `attempt` reads of them, and do both anew while the file disagrees with
        what is known of it.

        Raises:
            VideoError: no try succeeds, or the file cannot be read.
        """
        for _ in range(TRIES):
            try:
                self.choose(progress)
                return attempt()
            except (UntrustedError, MiscountError):
                continue
        raise VideoError(f"{self.file.file.name}: gives different frames each time it is decoded")

    def choose(self, progress: Progress | None = None) -> None:
        """Choose the wanted frames by what is known of the file, unless that was done.

        Frames by change are chosen by decoding the candidates. The choice is lost when the file turns out to
        disagree with what it was made by.

        Raises:
            UntrustedError, MiscountError, VideoError: as `pictures` does.
        """
        if self._chosen:
            return
        self._plan, self._kept = self._planned(), ()
        self.numbers = self._plan.candidates
        if self._plan.wanted < len(self.numbers):
            width, height = self.file.view.size
            resize = None if self._fit is None else self._fit(self._plan.wanted, height, width)
            candidates = self._read(self._plan.candidates, progress)
            self.numbers, self._kept = choose_by_change(candidates, self._plan.wanted, resize)
        self._chosen = True

    def _planned(self) -> Plan:
        """Candidates and number of frames by what is known of the file."""
        name, line = self.file.file.name, self.timeline
        wanted = self._sampling.choose(name, line)
        if self._sampling.frames_by == "time":
            return Plan(wanted, len(wanted))
        return Plan(self._sampling.choose(name, line, CANDIDATES), len(wanted))

    def recount(self) -> None:
        """Decode the file once to count its frames; `choose` then chooses anew."""
        try:
            seen = [frame.pts for _, frame in self._decoded(Work())]
        except UntrustedError:  # the file is damaged, so it is decoded again by one thread
            seen = [frame.pts for _, frame in self._decoded(Work())]
        self._settle(seen)
        self._chosen = False

    def pictures(
        self, progress: Progress | None = None, after: int = -1, threads: int | None = None
    ) -> Iterator[Shown]:
        """Yield the wanted frames with numbers above `after`; `timeline` has their times afterwards.

        Args:
            progress: called with the number of frames decoded and the number to decode.
            after: frames up to this number are left out.
            threads: largest number of threads of the decoder; None: as many as the codec takes.

        Raises:
            UntrustedError: the file does not agree with its packets, or with what frames were chosen by; the
                next call decodes every frame.
            MiscountError: the file has other frames than its packets state.
            VideoError: it cannot be decoded.
        """
        yield from (picture for picture in self._kept if picture.number > after)
        wanted = [number for number in self.numbers[len(self._kept) :] if number > after]
        if wanted:
            yield from self._read(wanted, progress, threads)

    def _read(
        self, wanted: list[int], progress: Progress | None, threads: int | None = None
    ) -> Iterator[Picture]:
        way = self._by_table if self.doubt is None else self._straight
        try:
            yield from way(wanted, progress, threads)
        except (UntrustedError, MiscountError, av.error.FFmpegError) as error:
            self._chosen = False
            if self.doubt is not None:
                raise
            self._damaged = isinstance(error, av.error.InvalidDataError)
            self.doubt = DAMAGED if self._damaged else _doubt(error)
            self._work = Work()
            raise UntrustedError(self.doubt) from error

    def _by_table(
        self, wanted: list[int], progress: Progress | None, threads: int | None
    ) -> Iterator[Picture]:
        file = self.file
        plan = stretches(file.packets, wanted, file.view.size, threads) if self._ahead else None
        if plan is not None:
            opening = partial(opened, file.file, file.stream, True)
            for number, frame in at_once(opening, file.packets, plan, self._work, progress):
                yield Picture(number, frame, file.view)
            return
        with opened(file.file, file.stream, strict=True, threads=threads) as (container, stream):
            for number, frame in by_table(container, stream, file.packets, wanted, self._work, progress):
                yield Picture(number, frame, file.view)

    def _straight(
        self, wanted: list[int], progress: Progress | None, threads: int | None
    ) -> Iterator[Picture]:
        """Decode the whole file and count its frames, or up to the last wanted frame where that was done.

        The choice depends on the number of frames and on their times. Packets do not tell either: decoders
        drop frames where recordings were cut and joined, behind the last wanted frame too.
        """
        left, to_go = set(wanted), wanted[-1] + 1
        seen: list[int | None] = []
        for number, frame in self._decoded(self._work, threads):
            seen.append(frame.pts)
            if progress is not None:
                progress(min(number + 1, to_go), to_go)
            if number in left:
                left.discard(number)
                yield Picture(number, frame, self.file.view)
            if not left and self._counted:
                return
        self._settle(seen)
        if left or self._planned() != self._plan:
            raise MiscountError

    def _settle(self, seen: list[int | None]) -> None:
        """Replace number and times from the packets by those of the frames that were decoded.

        Args:
            seen: timestamp of each frame of the file.
        """
        if not seen:
            raise VideoError(f"{self.file.file.name}: holds no frames that can be decoded")
        if self._counted:
            return
        known, rate = self.timeline, self.timeline.rate
        times = settled(seen, self.file.packets, known)
        later = times[-1] - known.seconds[min(len(times), len(known.seconds)) - 1]
        same = len(times) == len(known.seconds)
        self.timeline = Timeline(times, float(known.duration + later if same else times[-1] + 1 / rate), rate)
        self._counted = True

    def _decoded(self, work: Work, threads: int | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode all frames, and yield them with their numbers.

        Raises:
            UntrustedError: several threads found damage; the next call decodes by one thread.
            VideoError: the file cannot be decoded.
        """
        file = self.file
        try:
            # With several threads FFmpeg gives other frames where a packet holds one field.
            threads = 1 if self._damaged or not file.packets.whole else threads
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


def _doubt(error: Exception) -> str:
    return f"a seek fails: {reason(error)}" if isinstance(error, av.error.FFmpegError) else str(error)
