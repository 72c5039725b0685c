"""Which frames of a video are wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from holitom.errors import SettingsError, VideoError
from holitom.video.timing import Timeline

FRAMES = 32
MAX_FRAMES = 768
"""Most frames that `fps` samples, as in qwen-vl-utils."""


@dataclass(frozen=True)
class Sampling:
    """Frames spread evenly over a stretch of a video.

    Attributes:
        frames: how many, at least 1. Default: 32, unless `fps` is given.
        fps: how many a second of the stretch instead, above 0; rounded down, at least 1 in all.
        max_frames: most that `fps` gives, at least 1. Default: 768.
        start, end: seconds from the video's first frame. Default: all of it.

    Raises:
        SettingsError: a value out of its range, or both `frames` and `fps`.
    """

    frames: int | None = None
    fps: float | None = None
    max_frames: int = MAX_FRAMES
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, np.integer)) or isinstance(value, bool)):
                raise SettingsError(f"{name} must be a whole number, not {value!r}")
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, not {value}")
        for name, least in (("fps", "above 0"), ("start", "at least 0"), ("end", "above 0")):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise SettingsError(f"{name} must be a number {least}, not {value!r}")
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "start"):
                raise SettingsError(f"{name} must be {least}, not {value:g}")
        if self.frames is not None and self.fps is not None:
            raise SettingsError(
                f"frames={self.frames} and fps={self.fps:g} say two things: give one of them "
                "(max_frames caps fps)"
            )
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise SettingsError(f"end must be above start ({self.start:g}), not {self.end:g}")

    def choose(self, name: str, timeline: Timeline) -> list[int]:
        """Numbers of the frames wanted of `timeline`, rising; each frame at most once.

        A frame belongs to the stretch that its time lies in, `start` included and `end` not. Where none does,
        the one that is being shown at `start` is taken.

        Raises:
            VideoError: the video `name` ends before `start`.
        """
        first, stop = self._stretch(name, timeline)
        wanted = self.frames if self.frames is not None else FRAMES
        if self.fps is not None:
            begin, end = self.start or 0.0, timeline.duration
            end = end if self.end is None else min(self.end, end)
            # A hair more, so that 3 s at 0.1 frames a second less a rounding error stay what they are.
            wanted = min(max(1, math.floor((end - begin) * self.fps + 1e-6)), self.max_frames)
        total = stop - first
        wanted = min(wanted, total)
        return [first + i * total // wanted for i in range(wanted)]

    def _stretch(self, name: str, timeline: Timeline) -> tuple[int, int]:
        """The first frame and the one behind the last."""
        times = timeline.seconds
        if self.start is not None and self.start >= timeline.duration:
            raise VideoError(
                f"{name}: lasts {timeline.duration:.2f} s, so nothing is shown from start={self.start:g} on"
            )
        first = 0 if self.start is None else int(np.searchsorted(times, self.start, side="left"))
        stop = len(times) if self.end is None else int(np.searchsorted(times, self.end, side="left"))
        if first >= stop:
            first = max(0, int(np.searchsorted(times, self.start or 0.0, side="right")) - 1)
            stop = first + 1
        return first, stop
