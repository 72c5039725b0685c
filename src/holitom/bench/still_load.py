"""Videos of a camera that stands still, for vLLM's load generator.

The generator's own videos are noise, of which a vision tower can reuse nothing. In these videos a square
moves before a soft background, which differs from video to video.
"""

from __future__ import annotations

import io

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FPS = 30


def still_frames(rng: np.random.Generator, width: int, height: int, frames: int) -> NDArray[np.uint8]:
    """Draw `[F, H, W, 3]` uint8: a square of an eighth of the width moves before a soft background."""
    colours = Image.fromarray(rng.integers(40, 216, (4, 4, 3), dtype=np.uint8))
    background = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC))
    video = np.repeat(background[None], frames, axis=0)
    side = max(1, width // 8)
    ink, row = rng.integers(0, 256, 3), int(rng.integers(0, max(1, height - side)))
    for t, frame in enumerate(video):
        left = (width - side) * t // max(1, frames - 1)
        frame[row : row + side, left : left + side] = ink
    return video


def encoded(frames: NDArray[np.uint8]) -> bytes:
    """Encode frames `[F, H, W, 3]` RGB, of even height and width, as an H.264 file."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
