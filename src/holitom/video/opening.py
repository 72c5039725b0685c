"""Check a file before it is decoded: refuse files that are no videos, and count frames and seconds."""

from __future__ import annotations

import math
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
IMAGES = frozenset("avif avis heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1".split())
"""Brands of ISO files that hold images or sequences of images."""

FROM_ZERO = ("matroska", "asf", "nut")
"""Containers whose duration counts from time 0; in others it counts from the file's first timestamp."""


@dataclass(frozen=True)
class Opened:
    """A video file that can be decoded.

    Attributes:
        file: path of the file.
        stream: index of its video stream.
        packets: packets of that stream.
        stated: frames per second that the file states; None where it states none.
        guessed: `stated`, or FFmpeg's guess.
        view: rotation and size of its frames.
        seconds: seconds from its first packet to the end of its last, with sound.
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
def opened(
    file: Path, stream: int, strict: bool = False, threads: int | None = None
) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open a file and one of its streams for decoding.

    Args:
        file: path of the file.
        stream: index of the stream.
        strict: whether damage is an error. Otherwise a decoder conceals damage by earlier pictures.
        threads: largest number of threads of the decoder, at least 1; None: as many as the codec takes. With
            several threads, the frames of a damaged file differ from run to run.
    """
    with av.open(location(file)) as container:
        video = container.streams[stream]
        assert isinstance(video, av.VideoStream)
        video.thread_type = "NONE" if threads == 1 else "AUTO"
        video.codec_context.thread_count = threads or 0
        if strict:
            video.codec_context.options = {"err_detect": "explode"}
        yield container, video


def open_video(file: Path) -> Opened:
    """Check a file.

    Raises:
        VideoError: it cannot be read, is no video, is cut short, or its frames are too large.
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
    if kind == "tty" or kind.startswith("image2") or kind == "ico":
        raise VideoError(f"{name}: {'a text' if kind == 'tty' else 'an image'}, not a video")
    if kind == "webp_pipe" and _is_animated_webp(file):
        raise VideoError(f"{name}: an animated WebP, which cannot be decoded here; make it an mp4 or a GIF")
    candidates = _candidates(name, container)
    for stream in candidates:
        _check_size(name, stream.codec_context.width, stream.codec_context.height)
    walks, seconds = _walk(name, container, candidates)
    # The first stream of an animated AVIF or HEIF is a still cover.
    walk = next((walk for walk in walks if walk.shown > 1), walks[0])
    brand = container.metadata.get("major_brand", "").strip()
    if walk.shown < 2 and (kind.endswith("_pipe") or brand in IMAGES):
        raise VideoError(f"{name}: an image, not a video")
    if not walk.shown:
        raise VideoError(f"{name}: holds no frames")
    stream = walk.stream
    try:
        container.seek(0)
    except av.error.PermissionError as error:
        if not walk.stamped:
            raise VideoError(f"{name}: states no times: a raw stream? Put it into an mp4 file") from error
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
    """Read the packets of all `streams`, and the seconds of all packets of the file."""
    walks = {stream.index: Walk(stream) for stream in streams}
    cut, reached, step = False, 0.0, 0.0  # step: estimated duration of a last packet that states none
    ticks = {stream.index: stream.time_base for stream in container.streams}
    parts = {index: (tick.numerator, tick.denominator) for index, tick in ticks.items() if tick is not None}
    for packet in container.demux():
        if not packet.size:
            continue
        if packet.pts is not None and packet.stream_index in parts:
            numerator, denominator = parts[packet.stream_index]
            end = (packet.pts + (packet.duration or 0)) * numerator / denominator
            if end >= reached:
                step = 0.0 if packet.duration else end - reached or math.inf
                reached = end
        walk = walks.get(packet.stream_index)
        if walk is not None:
            walk.add(packet)  # type: ignore[arg-type]
            cut = packet.is_corrupt  # true of a last packet that is cut
    start, duration = (container.start_time or 0) / av.time_base, (container.duration or 0) / av.time_base
    promised = (0.0 if container.format.name.startswith(FROM_ZERO) else start) + 0.9 * duration
    if cut or (duration and reached + step < promised):
        raise VideoError(f"{name}: the file is cut short (its end is missing)")
    return list(walks.values()), reached - start


def _is_animated_webp(file: Path) -> bool:
    with file.open("rb") as data:
        head = data.read(21)
    return head[12:16] == b"VP8X" and bool(head[20] & 2)


def location(file: Path) -> str:
    """The absolute path for `av.open`: FFmpeg takes a relative name such as "http:x.mp4" for an address."""
    return str(file.absolute())


def reason(error: BaseException) -> str:
    """The text of an error of FFmpeg."""
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
