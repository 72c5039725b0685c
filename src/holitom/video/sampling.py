"""Choose the frames of a video to read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from holitom.errors import SettingsError, VideoError
from holitom.video.timing import Timeline

FRAMES = 32
MAX_FRAMES = 768
"""Largest number of frames that `fps` samples, as in qwen-vl-utils."""

FramesBy = Literal["time", "change"]
"""How frames are chosen: evenly spread ("time"), or those that show most of what four times as many show
("change"; docs/video.md#frames-by-change). Every reader of files in this library takes this setting by the
name `frames_by`, `--frames-by` on the command line."""


def spread(total: int, wanted: int) -> list[int]:
    """Numbers of `wanted` of `total` frames, evenly spread as in transformers; of all if they are fewer."""
    wanted = min(wanted, total)
    return [i * total // wanted for i in range(wanted)]


@dataclass(frozen=True)
class Sampling:
    """Frames of a stretch of a video, evenly spread or chosen by what changes.

    Attributes:
        frames: number of frames, at least 1. None: 32, unless `fps` is given.
        fps: frames per second of the stretch instead, above 0; their number is rounded down, at least 1.
        max_frames: largest number of frames with `fps`, at least 1.
        start, end: stretch in seconds from the video's first frame. None: the whole video.
        frames_by: "time": evenly spread. "change": chosen among four times as many (`video.change`).

    Raises:
        SettingsError: a value is out of its range, or both `frames` and `fps` are given.
    """

    frames: int | None = None
    fps: float | None = None
    max_frames: int = MAX_FRAMES
    start: float | None = None
    end: float | None = None
    frames_by: FramesBy = "time"

    def __post_init__(self) -> None:
        for name in ("frames", "max_frames"):
            value = getattr(self, name)
            if value is None and name == "frames":
                continue
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
                raise SettingsError(f"{name} must be a whole number, not {value!r}")
            if value < 1:
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
                f"frames={self.frames} and fps={self.fps:g} exclude each other: give one of them "
                "(max_frames caps fps)"
            )
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise SettingsError(f"end must be above start ({self.start:g}), not {self.end:g}")
        if self.frames_by not in get_args(FramesBy):
            known = " or ".join(get_args(FramesBy))
            raise SettingsError(f"frames_by must be {known}, not {self.frames_by!r}")

    def choose(self, name: str, timeline: Timeline, times: int = 1) -> list[int]:
        """Choose `times` as many frames as wanted, evenly spread; their numbers, rising, each at most once.

        The stretch of `timeline` has the frames with times from `start` to before `end`; if there are none,
        the frame that is shown at `start`.

        Raises:
            VideoError: the video `name` ends before `start`.
        """
        first, stop = self._stretch(name, timeline)
        wanted = self.frames if self.frames is not None else FRAMES
        if self.fps is not None:
            begin, end = self.start or 0.0, timeline.duration
            end = end if self.end is None else min(self.end, end)
            # A product such as 2.9999999, which is 3 but for rounding, counts as 3.
            wanted = min(max(1, math.floor((end - begin) * self.fps + 1e-6)), self.max_frames)
        return [first + number for number in spread(stop - first, wanted * times)]

    def _stretch(self, name: str, timeline: Timeline) -> tuple[int, int]:
        """Numbers of the first frame of the stretch and of the frame behind its last."""
        times = timeline.seconds
        if self.start is not None and self.start >= timeline.duration:
            raise VideoError(
                f"{name}: lasts {timeline.duration:.2f} s, so it has no frames from start={self.start:g} on"
            )
        first = 0 if self.start is None else int(np.searchsorted(times, self.start, side="left"))
        stop = len(times) if self.end is None else int(np.searchsorted(times, self.end, side="left"))
        if first >= stop:
            first = max(0, int(np.searchsorted(times, self.start or 0.0, side="right")) - 1)
            stop = first + 1
        return first, stop
