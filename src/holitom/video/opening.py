"""A file is looked over before it is decoded: no video is refused, frames and seconds are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition

from holitom.errors import VideoError
from holitom.video.decoding import Work, straight
from holitom.video.packets import Packets, Walk
from holitom.video.timing import Timeline, timeline
from holitom.video.upright import View, view_of

MAX_SIDE = 8192
MAX_FRAME_PIXELS = 64_000_000
IMAGES = (
    "avif",
    "avis",
    "heic",
    "heix",
    "heim",
    "heis",
    "hevc",
    "hevx",
    "hevm",
    "hevs",
    "mif1",
    "mif2",
    "msf1",
)
"""Brands of ISO files that hold images, or sequences of them."""


@dataclass(frozen=True)
class Opened:
    """A video file that may be decoded.

    Attributes:
        file: where it is.
        stream: index of its video stream.
        packets: of that stream.
        stated: frames a second, as the file says; None where it does not.
        guessed: the same, or what FFmpeg guesses.
        view: how its frames are shown.
        seconds: from its first packet to the end of its last, sound included.
    """

    file: Path
    stream: int
    packets: Packets
    stated: Fraction | None
    guessed: Fraction | None
    view: View
    seconds: float

    @property
    def timeline(self) -> Timeline:
        """Times of all frames."""
        return timeline(self.packets, self.stated, self.guessed)


@contextmanager
def opened(file: Path, stream: int) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """A file and one of its streams, to be decoded by as many threads as the codec takes."""
    with av.open(location(file)) as container:
        video = container.streams[stream]
        assert isinstance(video, av.VideoStream)
        video.thread_type = "AUTO"
        yield container, video


def open_video(file: Path) -> Opened:
    """Look a file over.

    Raises:
        VideoError: it cannot be read, is no video, is cut short or absurdly large.
    """
    if not file.exists():
        raise VideoError(f"{file}: no such file")
    if not file.is_file():
        raise VideoError(f"{file}: not a file" + (" but a directory" if file.is_dir() else ""))
    if not os.access(file, os.R_OK):
        raise VideoError(f"{file}: permission denied")
    if file.stat().st_size == 0:
        raise VideoError(f"{file.name}: the file is empty")
    try:
        with av.open(location(file)) as container:
            return _look(file, container)
    except av.error.InvalidDataError as error:
        raise VideoError(
            f"{file.name}: no readable video: another kind of file, damaged or cut short"
        ) from error
    except UnicodeDecodeError as error:
        raise VideoError(
            f"{file.name}: its metadata are not UTF-8 "
            "(`ffmpeg -i VIDEO -map_metadata -1 -c copy NEW` drops them)"
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{file.name}: cannot be read ({reason(error)})") from error


def _look(file: Path, container: InputContainer) -> Opened:
    name, kind = file.name, container.format.name
    if kind == "tty" or kind.startswith("image2") or kind.endswith("_pipe") or kind == "ico":
        raise VideoError(f"{name}: {'a text' if kind == 'tty' else 'an image'}, not a video")
    candidates = _candidates(name, container)
    for stream in candidates:
        _check_size(name, stream.codec_context.width, stream.codec_context.height)
    walks, seconds = _walk(name, container, candidates)
    # The first stream of an animated AVIF or HEIF is its cover, a still.
    walk = next((walk for walk in walks if walk.shown > 1), walks[0])
    if walk.shown < 2 and container.metadata.get("major_brand", "").strip() in IMAGES:
        raise VideoError(f"{name}: an image, not a video")
    if not walk.shown:
        raise VideoError(f"{name}: holds no frames")
    stream = walk.stream
    try:
        container.seek(0)
    except av.error.PermissionError as error:
        raise VideoError(f"{name}: cannot be wound back: a raw stream? Put it into an mp4 file") from error
    with opened(file, stream.index) as (again, video):
        _, first = next(straight(again, video, Work()), (0, None))
    if first is None:
        raise VideoError(f"{name}: holds no frames that can be decoded")
    _check_size(name, first.width, first.height)
    return Opened(
        file,
        stream.index,
        walk.packets(),
        stream.average_rate,
        stream.average_rate or stream.guessed_rate,
        view_of(first),
        seconds,
    )


def _candidates(name: str, container: InputContainer) -> list[av.VideoStream]:
    """Video streams that can be decoded."""
    streams = list(container.streams.video)
    if not streams:
        what = "only sound" if container.streams.audio else "nothing readable (damaged or cut short?)"
        raise VideoError(f"{name}: holds {what}, no video stream")
    moving = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise VideoError(f"{name}: holds only sound and a cover picture, no video stream")
    known = [stream for stream in moving if stream.codec_context is not None]
    if not known:
        raise VideoError(f"{name}: the video is in a format that cannot be decoded here, or is damaged")
    return known


def _check_size(name: str, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_FRAME_PIXELS:
        raise VideoError(
            f"{name}: frames of {width} x {height} are too large "
            f"(at most {MAX_SIDE} a side and {MAX_FRAME_PIXELS // 10**6} megapixels)"
        )


def _walk(name: str, container: InputContainer, streams: list[av.VideoStream]) -> tuple[list[Walk], float]:
    """The packets of all `streams`, and the seconds that all packets of the file take."""
    walks = {stream.index: Walk(stream) for stream in streams}
    cut, reached = False, 0.0
    for packet in container.demux():
        if not packet.size:
            continue
        if packet.pts is not None and packet.time_base is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        walk = walks.get(packet.stream_index)
        if walk is not None:
            walk.add(packet)  # type: ignore[arg-type]
            cut = packet.is_corrupt  # of the last packet: only half of it is there
    start, duration = container.start_time or 0, container.duration
    if cut or (duration and reached < (start + 0.9 * duration) / av.time_base):
        raise VideoError(f"{name}: the file is cut short (its end is missing)")
    return list(walks.values()), reached - start / av.time_base


def location(file: Path) -> str:
    """For `av.open`. Absolute: FFmpeg would take a relative name such as "http:x.mp4" for an address."""
    return str(file.absolute())


def reason(error: BaseException) -> str:
    """What an error of FFmpeg says."""
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
