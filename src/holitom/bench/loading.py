"""Time the way from a video file to a model's inputs, by transformers' loader and by this library."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from holitom.errors import VideoError
from holitom.video import Fit, Sampling, Video, load_sampled


class Load(NamedTuple):
    """Seconds from a file to a model's inputs.

    Attributes:
        reading: seconds to read the file and decode the chosen frames.
        preprocessing: seconds in the processor.
    """

    reading: float
    preprocessing: float


@dataclass(frozen=True)
class Loading:
    """A file whose frames both loaders can load.

    Attributes:
        file: the video file.
        sampling: the frames to load.
        numbers: numbers of those frames in the file, rising.
        prepare: makes a model's inputs from the frames.
        fit: resizes frames while this library reads them; None: `prepare` resizes all.
    """

    file: Path
    sampling: Sampling
    numbers: Sequence[int]
    prepare: Callable[[Video], Any]
    fit: Fit | None = None

    def own(self) -> Load:
        """Time this library's reader."""
        return self._timed(lambda: load_sampled(self.file, self.sampling, fit=self.fit))

    def stock(self) -> Load:
        """Time the loader of transformers' processors (`stock_loader`) on the same frames.

        Raises:
            VideoError: transformers' loader cannot read the file.
        """
        return self._timed(self._by_transformers)

    def _by_transformers(self) -> Video:
        import numpy as np
        from transformers import video_utils

        load: Any = video_utils.load_video  # a path is not in its annotations
        wanted = np.asarray(self.numbers)
        loader = stock_loader()
        try:
            frames, metadata = load(
                str(self.file), backend=loader, sample_indices_fn=lambda metadata, **_: wanted
            )
        except Exception as error:
            raise VideoError(f"{self.file.name}: transformers' {loader} loader fails: {error}") from error
        return Video(np.asarray(frames), metadata)

    def _timed(self, read: Callable[[], Video]) -> Load:
        began = time.perf_counter()
        video = read()
        done = time.perf_counter()
        self.prepare(video)
        return Load(done - began, time.perf_counter() - done)


def stock_loader() -> str:
    """Name of the loader that transformers' processors use: torchcodec where it can be loaded, else PyAV.

    (transformers' own second choice, torchvision, has no decoder any more.)
    """
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):  # not installed, or without an FFmpeg that it can load
        return "pyav"
    return "torchcodec"
