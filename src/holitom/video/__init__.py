"""Read a video file into frames, their times, and metadata for a transformers processor.

    video = load_video("video.mp4", frames=32)  # or fps=1, start=60, end=120, frames_by="change"
    video.frames, video.times, video.reading

`iter_frames` gives the same frames in batches, and keeps one batch in memory at a time. docs/video.md
describes the reading.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from holitom.errors import SettingsError, VideoError
from holitom.video.decoding import Progress, UntrustedError
from holitom.video.opening import Opened, open_video
from holitom.video.reading import TRIES, MiscountError, Reading, Source
from holitom.video.sampling import MAX_FRAMES, FramesBy, Sampling
from holitom.video.threads import mapped
from holitom.video.upright import Array, Fit, Resize, Shown

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

    from holitom.video.metadata import TimedMetadata

__all__ = [
    "Fit",
    "FramesBy",
    "Header",
    "Progress",
    "Reading",
    "Resize",
    "Sampling",
    "Video",
    "iter_frames",
    "load_sampled",
    "load_video",
    "look_over",
]

MAX_SAMPLED_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Video:
    """Sampled frames of one video, as a transformers processor takes them.

    Attributes:
        frames: `[F, H, W, 3]` uint8 RGB, upright (turned and mirrored as the file says).
        metadata: transformers' metadata of the file, with `frames_indices` and `timestamps` of these frames.
        reading: how the frames were read; None where they did not come from a file.
        fitted: whether the frames have the size that a processor resizes them to, rather than the file's.
    """

    frames: NDArray[np.uint8]
    metadata: VideoMetadata
    reading: Reading | None = None
    fitted: bool = False

    @property
    def times(self) -> list[float]:
        """Seconds from the video's first frame, of each of `frames`."""
        return list(self.metadata.timestamps)

    def first(self, count: int) -> Video:
        """The first `count` frames of this video, with their times."""
        return self.at(range(len(self.frames))[:count])

    def at(self, indices: Sequence[int]) -> Video:
        """The sampled frames with these indices, which may repeat, with their times."""
        from holitom.video.metadata import timed

        known = timed(self.metadata, self.frames.shape)
        return replace(self, frames=self.frames[list(indices)], metadata=known.at(indices))


@dataclass(frozen=True)
class Header:
    """Length and size of a video, known before it is decoded.

    Attributes:
        frames: number of frames.
        seconds: seconds from the beginning of the first frame to the end of the last.
        width, height: pixels of an upright frame.
    """

    frames: int
    seconds: float
    width: int
    height: int


def load_video(
    path: str | os.PathLike[str],
    frames: int | None = None,
    progress: Progress | None = None,
    max_seconds: float | None = None,
    *,
    fps: float | None = None,
    max_frames: int = MAX_FRAMES,
    start: float | None = None,
    end: float | None = None,
    frames_by: FramesBy = "time",
) -> Video:
    """Sample frames evenly over a video file, or over a section of it, or by what changes in it.

    A video with fewer frames than requested gives all of them, each once: no frame is repeated. Of n
    frames, w samples are those numbered i * n // w, as in transformers.

    Args:
        path: path of the file.
        frames: number of frames, at least 1. Default: 32, unless `fps` is given.
        progress: called while decoding with the number of frames decoded and the number to decode.
        max_seconds: a video that lasts longer is refused before it is decoded.
        fps: frames per second of the section, above 0, instead of `frames`; at least one frame is sampled.
        max_frames: the largest number of frames that `fps` gives. Default: 768, as in qwen-vl-utils.
        start: beginning of the section, in seconds from the video's first frame. Default: the first frame.
        end: end of the section (its frames are before it), in the same seconds. Default: the video's end.
        frames_by: "time": evenly spread. "change": those that show most of what four times as many evenly
            spread frames show; these are decoded too.

    Raises:
        VideoError: the file cannot be read, is no video, is damaged or cut short, too long, too large, or
            ends before `start`.
        SettingsError: a setting is out of its range, or both `frames` and `fps` are given.
    """
    return load_sampled(path, Sampling(frames, fps, max_frames, start, end, frames_by), progress, max_seconds)


def load_sampled(
    path: str | os.PathLike[str],
    sampling: Sampling,
    progress: Progress | None = None,
    max_seconds: float | None = None,
    fit: Fit | None = None,
) -> Video:
    """`load_video` with its settings as one `Sampling`; its errors are the same.

    With `fit`, frames are resized one after another as they are read, so that memory holds only one frame of
    the file's size. The times and the rest of the metadata stay those of the file.
    """
    return read(opened_source(path, sampling, max_seconds, progress), progress, fit)


def read(source: Source, progress: Progress | None = None, fit: Fit | None = None) -> Video:
    """Read the frames that were chosen of an opened file; arguments and errors as in `load_sampled`."""
    return source.tried(lambda: _whole(source, progress, fit), progress)


def iter_frames(
    path: str | os.PathLike[str],
    frames: int | None = None,
    progress: Progress | None = None,
    max_seconds: float | None = None,
    *,
    fps: float | None = None,
    max_frames: int = MAX_FRAMES,
    start: float | None = None,
    end: float | None = None,
    frames_by: FramesBy = "time",
    batch: int = 8,
) -> Iterator[Video]:
    """Iterate over the frames of `load_video` in batches of `batch` frames, each read when it is requested.

    Memory holds one batch of frames. Each batch is a `Video` with the times of its frames. The arguments are
    those of `load_video`; its errors are raised with the first batch.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise SettingsError(f"batch must be a whole number from 1 on, not {batch!r}")
    sampling = Sampling(frames, fps, max_frames, start, end, frames_by)
    return _batches(path, sampling, max_seconds, progress, batch)


def look_over(path: str | os.PathLike[str], max_seconds: float | None = None) -> Header:
    """Count the frames of a video file without decoding them.

    Raises:
        VideoError: the file cannot or should not be decoded, or lasts longer than `max_seconds`.
    """
    file = _look_over(path, max_seconds)
    return Header(file.packets.total, file.seconds, *file.view.size)


def _look_over(path: str | os.PathLike[str] | Opened, max_seconds: float | None) -> Opened:
    known = path if isinstance(path, Opened) else open_video(Path(path))
    if max_seconds is not None and known.seconds > max_seconds:
        raise VideoError(
            f"{known.file.name}: lasts {known.seconds / 60:.1f} minutes, longer than the "
            f"{max_seconds / 60:g} that are allowed here: cut it"
        )
    return known


def opened_source(
    path: str | os.PathLike[str] | Opened,
    sampling: Sampling,
    max_seconds: float | None = None,
    progress: Progress | None = None,
    fit: Fit | None = None,
) -> Source:
    """Check a file, unless that was done (`open_video`), and choose which of its frames to read.

    Frames by change are chosen by decoding the candidates; `progress` is called meanwhile. Candidates are
    kept resized by `fit`, if it is given, so that more of them are kept; all candidates are then resized, and
    the frames have to be read with the same `fit`.
    """
    source = Source(_look_over(path, max_seconds), sampling, fit)
    source.tried(lambda: None, progress)
    return source


def _whole(source: Source, progress: Progress | None, fit: Fit | None) -> Video:
    """Read all chosen frames at once."""
    width, height = source.file.view.size
    count = len(source.numbers)
    resize = None if fit is None else fit(count, height, width)
    frames = np.empty((0, height, width, 3), np.uint8)
    threads = 1 if resize is None else None  # converting a frame to RGB takes several threads by itself
    shown = mapped(lambda picture: picture.fitted(resize), source.pictures(progress), threads)
    for i, image in enumerate(shown):
        if not i:
            frames = room(source, image.shape)
        frames[i] = image
    return Video(frames, metadata_of(source, source.numbers), source.reading, resize is not None)


def room(source: Source, shape: tuple[int, ...]) -> Array:
    """Allocate memory for all chosen frames of `shape` `[h, w, 3]`.

    Raises:
        VideoError: the frames take more than `MAX_SAMPLED_BYTES`.
    """
    count = len(source.numbers)
    size = count * prod(shape)
    if size > MAX_SAMPLED_BYTES:
        height, width, _ = shape
        raise VideoError(
            f"{source.file.file.name}: {count} frames of {width} x {height} take {size / 2**30:.0f} GiB, "
            f"more than {MAX_SAMPLED_BYTES // 2**30}: ask for fewer frames"
        )
    return np.empty((count, *shape), np.uint8)


def _batches(
    path: str | os.PathLike[str],
    sampling: Sampling,
    max_seconds: float | None,
    progress: Progress | None,
    size: int,
) -> Iterator[Video]:
    source = Source(_look_over(path, max_seconds), sampling, ahead=False)
    name = source.file.file.name
    kept: list[Shown] = []
    last: Shown | None = None
    given = False
    for _ in range(TRIES):
        try:
            if not given:
                kept, last = [], None
                if source.doubt is not None:
                    source.recount()
                source.choose(progress)
            for picture in source.pictures(progress, after=-1 if last is None else last.number - 1):
                if last is not None and picture.number == last.number:  # read again after an error
                    if picture.pts != last.pts:
                        raise VideoError(f"{name}: {source.doubt}; use load_video")
                    continue
                last = picture
                kept.append(picture)
                if len(kept) == size:
                    yield _batch(source, kept)
                    kept, given = [], True
            break
        except (UntrustedError, MiscountError) as error:
            if given and isinstance(error, MiscountError):
                raise VideoError(
                    f"{name}: has other frames than its packets state; use load_video"
                ) from error
    else:
        raise VideoError(f"{name}: gives different frames each time it is decoded")
    if kept:
        yield _batch(source, kept)


def _batch(source: Source, pictures: list[Shown]) -> Video:
    frames = np.stack([picture.fitted(None) for picture in pictures])
    return Video(frames, metadata_of(source, [picture.number for picture in pictures]), source.reading)


def metadata_of(source: Source, numbers: Sequence[int]) -> TimedMetadata:
    """transformers' metadata of a file, for its frames with these `numbers`."""
    from holitom.video.metadata import TimedMetadata

    line = source.timeline
    times = line.seconds[list(numbers)].tolist()
    return TimedMetadata.of(times, numbers, source.total, line.rate, line.duration, source.file.view.size)
