"""Seconds from a video file to a model's inputs, transformers' way and this library's."""

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
    """One way from the file to the inputs, in seconds.

    Attributes:
        reading: of the file: decoding the wanted frames.
        preprocessing: of the processor.
    """

    reading: float
    preprocessing: float


@dataclass(frozen=True)
class Loading:
    """A file whose frames are loaded by either way.

    Attributes:
        file: the video file.
        sampling: which of its frames are wanted.
        numbers: of those frames, rising.
        prepare: makes a model's inputs of them.
        fit: resizes frames while they are read, in the library's own way; None: `prepare` resizes all.
    """

    file: Path
    sampling: Sampling
    numbers: Sequence[int]
    prepare: Callable[[Video], Any]
    fit: Fit | None = None

    def own(self) -> Load:
        """Load by this library's reader."""
        return self._timed(lambda: load_sampled(self.file, self.sampling, fit=self.fit))

    def stock(self) -> Load:
        """Load the same frames by the loader of transformers' processors (see `stock_loader`).

        Raises:
            VideoError: that loader cannot read the file.
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
    """What transformers' processors read files with: torchcodec where it can be loaded, else PyAV.

    (Their own second choice, torchvision, has lost its decoder.)
    """
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):  # not installed, or without an FFmpeg that it can load
        return "pyav"
    return "torchcodec"
