"""Render the bundled demo video: one held-out MovingDigits-QA sample as an H.264 file.

    python tools/render_demo.py                # writes src/holitom/assets/demo.mp4
    python tools/render_demo.py --index 7 --output seven.mp4

Each of the sample's frames is shown twice, so sampling the model's 16 frames evenly over the file gives
the sample back (but for the codec's losses).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from holitom.bench import moving_digits

OUTPUT = Path(__file__).parents[1] / "src/holitom/assets/demo.mp4"
INDEX = 35  # three scenes, digits that move and digits that stand still, a shape that flashes once


def write_h264(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
    """Write `frames` so that the same frames and encoder give the same bytes."""
    _, height, width, _ = frames.shape
    # One thread and no dates or version strings in the container.
    with av.open(
        str(path), "w", format="mp4", options={"movflags": "faststart", "fflags": "+bitexact"}
    ) as out:
        stream: Any = out.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18", "preset": "slow", "threads": "1", "flags": "+bitexact"}
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def enlarged(video: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Enlarge frames `[F, H, W, 3]` to `scale` times their height and width."""
    size = (video.shape[2] * scale, video.shape[1] * scale)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in video])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=int, default=INDEX, help="which held-out sample")
    parser.add_argument("--frames", type=int, default=16, help="frames of the sample, each shown twice")
    parser.add_argument("--scale", type=int, default=4, help="112 pixels a side, times this")
    parser.add_argument("--fps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()

    sample = moving_digits.sample("test", options.index, frames=options.frames)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_h264(options.output, enlarged(sample.frames, options.scale).repeat(2, axis=0), options.fps)
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KiB")
    for question in sample.questions:
        print(f"  {question.text}  {question.answer}")


if __name__ == "__main__":
    main()
