"""Video files, written with a real encoder."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_video(
    path: Path,
    frames: int = 24,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int | Fraction = 8,
    **options: str,
) -> Path:
    """A video whose frames get lighter from first to last, with a white patch in the top left corner."""
    width, height = size
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for i in range(frames):
            image = np.full((height, width, 3), 200 * i // max(1, frames - 1), dtype=np.uint8)
            image[: height // 4, : width // 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_times(
    path: Path,
    times: Sequence[float],
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    **options: str,
) -> Path:
    """A video whose frames, lighter from first to last, are shown at `times`, in seconds to the
    millisecond."""
    width, height = size
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            image = np.full((height, width, 3), 200 * i // max(1, len(times) - 1), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moving_frames(count: int, width: int = 64, height: int = 48) -> list[np.ndarray[Any, Any]]:
    """Frames that all differ: a bright bar wanders over noise that stays."""
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8)
    frames = []
    for i in range(count):
        frame = noise + np.uint8(i % 90)
        left = 3 * i % (width - 8)
        frame[:, left : left + 8] = (255, 2 * i % 256, 0)
        frames.append(frame)
    return frames


def write_frames(
    path: Path, frames: Sequence[np.ndarray[Any, Any]], codec: str = "libx264", **options: str
) -> Path:
    """A video of these frames, 25 a second."""
    container_options = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def remux(source: Path, target: Path, change: Callable[[Any, int], None]) -> Path:
    """The packets of `source`, each changed by `change(packet, its number)`."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        packets = [packet for packet in reader.demux(reader.streams.video[0]) if packet.size]
        for i, packet in enumerate(packets):
            change(packet, i)
            packet.stream = stream
            writer.mux(packet)
    return target


def patch_box(path: Path, box: bytes, values: dict[int, int]) -> Path:
    """Overwrite 32-bit numbers of an mp4's box, by their distance from the box's name, in bytes."""
    data = bytearray(path.read_bytes())
    begin = data.index(box)
    for at, value in values.items():
        data[begin + at : begin + at + 4] = value.to_bytes(4, "big")
    path.write_bytes(data)
    return path


def turn_sideways(path: Path) -> Path:
    """As phones do: a quarter turn, clockwise, in the track header of an mp4."""
    return set_display_matrix(path, (0, 1 << 16, -(1 << 16), 0))


def set_display_matrix(path: Path, turn: tuple[int, int, int, int]) -> Path:
    """The a, b, c and d of an mp4's display matrix, 1 << 16 being 1; its offsets do not matter to players."""
    a, b, c, d = turn
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
