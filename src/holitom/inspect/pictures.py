"""Pictures of a video's frames to draw on, kept while the frames are read and resized for a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from holitom.video import Fit, Resize, Video

SIDE = 448
"""Pixels of a picture's longer side, at most: no drawing shows a frame larger."""

Pictures = NDArray[np.uint8]


class Pictured:
    """A `Fit` that also keeps each frame as a picture, in the file's aspect ratio.

        fit = Pictured(fit_of(processor))
        video = load_sampled("video.mp4", fit=fit)
        fit.pictures(video)

    A processor may squash, crop or shrink frames, and frames of the file's size take memory: 64 frames of
    3840 x 2160 are 1.6 GB, their pictures 22 MB.

    Args:
        fit: how the processor resizes frames.
    """

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        self._kept: dict[int, Pictures] = {}

    def __call__(self, frames: int, height: int, width: int) -> Resize | None:
        resize = self._fit(frames, height, width)
        kept = self._kept = {}  # a file that is read again gives all its frames again
        if resize is None:
            return None

        def keep_and_resize(frame: Pictures, number: int) -> Pictures:
            kept[number] = small(frame)
            return resize(frame, number)

        return keep_and_resize

    def pictures(self, video: Video) -> Pictures:
        """Stack the pictures of `video`, which was read with this `Fit`.

        Returns:
            `[F, h, w, 3]` uint8; the frames themselves where they could not be resized one at a time.
        """
        return np.stack([self._kept[i] for i in sorted(self._kept)]) if self._kept else video.frames


def small(frame: Pictures) -> Pictures:
    """Shrink a frame `[H, W, 3]` uint8 to `SIDE` pixels on its longer side; a smaller one stays as it is."""
    image = Image.fromarray(frame)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)
