"""From a video file to frames: looked over first, then decoded by transformers' own loader."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from holitom.errors import SettingsError, VideoError

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

MAX_SIDE = 8192
MAX_FRAME_PIXELS = 64_000_000
MAX_SAMPLED_BYTES = 8 * 2**30

Progress = Callable[[int, int], None]
"""Called with (frames gone through, frames to go through) while a video is decoded."""


@dataclass(frozen=True)
class Video:
    """Sampled frames of one video, as a transformers processor takes them.

    Attributes:
        frames: `[F, H, W, 3]` uint8 RGB, upright (a rotation in the file is applied).
        metadata: transformers' metadata of the file, with `frames_indices` of the sampled frames.
    """

    frames: NDArray[np.uint8]
    metadata: VideoMetadata


@dataclass(frozen=True)
class Header:
    """What is known of a file before it is decoded.

    Attributes:
        frames: to be shown.
        seconds: from the first to the end of the last.
        width, height: of a frame as it lies in the file, before it is turned upright.
        quarter_turns: counter-clockwise, that make it upright.
    """

    frames: int
    seconds: float
    width: int
    height: int
    quarter_turns: int


def load_video(
    path: str | os.PathLike[str],
    frames: int = 32,
    progress: Progress | None = None,
    max_seconds: float | None = None,
) -> Video:
    """Sample `frames` frames evenly over a whole video file.

    A video with fewer frames than asked gives all that it has, each once: no frame is ever repeated
    to fill up. One that lasts longer than `max_seconds` is refused before it is decoded.

    Raises:
        VideoError: the file cannot be read, is no video, is damaged or cut short, too long or absurdly large.
        SettingsError: `frames` is below 1.
    """
    if frames < 1:
        raise SettingsError(f"frames must be at least 1, not {frames}")
    file = Path(path)
    header = look_over(file, max_seconds)
    wanted = min(frames, header.frames)
    size = wanted * header.width * header.height * 3
    if size > MAX_SAMPLED_BYTES:
        raise VideoError(
            f"{file.name}: {wanted} frames of {header.width} x {header.height} take {size / 2**30:.0f} GiB, "
            f"more than {MAX_SAMPLED_BYTES // 2**30}: ask for fewer frames"
        )
    video = _decode(file, header.frames, wanted, progress)
    if len(video.frames) < wanted:
        # Some codecs (VP8) hold packets that show nothing, so packets overcount frames: count for sure.
        total = _count_by_decoding(file)
        video = _decode(file, total, min(frames, total), progress)
    if header.quarter_turns:
        upright = np.ascontiguousarray(np.rot90(video.frames, header.quarter_turns, axes=(1, 2)))
        video.metadata.height, video.metadata.width = upright.shape[1:3]
        return Video(upright, video.metadata)
    return video


def look_over(path: str | os.PathLike[str], max_seconds: float | None = None) -> Header:
    """Count the frames of a video file without decoding them.

    Raises:
        VideoError: the file cannot or should not be decoded, or lasts longer than `max_seconds`.
    """
    file = Path(path)
    header = _read(file)
    if max_seconds is not None and header.seconds > max_seconds:
        raise VideoError(
            f"{file.name}: lasts {header.seconds / 60:.1f} minutes, longer than the {max_seconds / 60:g} "
            "that are allowed here: cut it"
        )
    return header


def _read(file: Path) -> Header:
    if not file.exists():
        raise VideoError(f"{file}: no such file")
    if not file.is_file():
        raise VideoError(f"{file}: not a file" + (" but a directory" if file.is_dir() else ""))
    if not os.access(file, os.R_OK):
        raise VideoError(f"{file}: permission denied")
    if file.stat().st_size == 0:
        raise VideoError(f"{file.name}: the file is empty")
    try:
        with av.open(_location(file)) as container:
            return _read_header(file.name, container)
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
        raise VideoError(f"{file.name}: cannot be read ({_reason(error)})") from error


def _read_header(name: str, container: av.container.InputContainer) -> Header:
    kind = container.format.name
    if kind == "tty" or kind.startswith("image2") or kind.endswith("_pipe"):
        raise VideoError(f"{name}: {'a text' if kind == 'tty' else 'an image'}, not a video")
    if not container.streams.video:
        what = "only sound" if container.streams.audio else "nothing readable (damaged or cut short?)"
        raise VideoError(f"{name}: holds {what}, no video stream")
    stream = container.streams.video[0]
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError(f"{name}: holds only sound and a cover picture, no video stream")
    if stream.codec_context is None:
        raise VideoError(f"{name}: the video is in a format that cannot be decoded here, or is damaged")
    width, height = stream.codec_context.width, stream.codec_context.height
    if max(width, height) > MAX_SIDE or width * height > MAX_FRAME_PIXELS:
        raise VideoError(
            f"{name}: frames of {width} x {height} are too large "
            f"(at most {MAX_SIDE} a side and {MAX_FRAME_PIXELS // 10**6} megapixels)"
        )
    if stream.average_rate is None:
        raise VideoError(f"{name}: states no frame rate")
    frames, seconds = _count_packets(name, container, stream)
    return Header(frames, seconds, width, height, _quarter_turns(name, container))


def _count_packets(
    name: str, container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[int, float]:
    """Frames to be shown and seconds, from the packets: headers may leave them out or promise more."""
    frames, cut, reached = 0, False, 0.0
    for packet in container.demux():
        if not packet.size:
            continue
        if packet.pts is not None and packet.time_base is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index == stream.index:
            frames += not packet.is_discard
            cut = packet.is_corrupt  # of the last packet: only half of it is there
    start, duration = container.start_time or 0, container.duration
    if cut or (duration and reached < (start + 0.9 * duration) / av.time_base):
        raise VideoError(f"{name}: the file is cut short (its end is missing)")
    if not frames:
        raise VideoError(f"{name}: holds no frames")
    return frames, reached - start / av.time_base


def _quarter_turns(name: str, container: av.container.InputContainer) -> int:
    """How often to turn frames by 90 degrees, counter-clockwise: phones film sideways and note it."""
    try:
        container.seek(0)
    except av.error.PermissionError as error:
        raise VideoError(f"{name}: cannot be wound back: a raw stream? Put it into an mp4 file") from error
    first = next(container.decode(video=0), None)
    if first is None:
        raise VideoError(f"{name}: holds no frames that can be decoded")
    return round(first.rotation / 90) % 4


def _count_by_decoding(file: Path) -> int:
    with av.open(_location(file)) as container:
        return sum(1 for _ in container.decode(video=0))


def _decode(file: Path, total: int, wanted: int, progress: Progress | None) -> Video:
    from transformers import video_utils

    def sample(metadata: VideoMetadata, **_: Any) -> list[int]:
        metadata.total_num_frames = total
        metadata.duration = total / metadata.fps if metadata.fps else None
        chosen = video_utils.default_sample_indices_fn(metadata, num_frames=wanted)
        return _Watched(chosen.tolist(), progress)

    location: Any = _location(file)  # the loader takes paths, its annotation does not
    try:
        frames, metadata = video_utils.load_video(location, backend="pyav", sample_indices_fn=sample)
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{file.name}: the video is damaged and cannot be decoded ({_reason(error)})"
        ) from error
    metadata.frames_indices = list(metadata.frames_indices)[: len(frames)]
    return Video(frames, metadata)


class _Watched(list[int]):
    """Frame numbers that report progress when the loader looks a frame's number up in them."""

    def __init__(self, numbers: list[int], progress: Progress | None) -> None:
        super().__init__(numbers)
        self._set = frozenset(numbers)
        self._progress = progress

    def __contains__(self, number: object) -> bool:
        if self._progress is not None and isinstance(number, int):
            self._progress(number + 1, self[-1] + 1)
        return number in self._set


def _location(file: Path) -> str:
    # Absolute: FFmpeg would take a relative name such as "http:x.mp4" for an address.
    return str(file.absolute())


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
