"""Read the frames of a file in a thread, while other threads use the frames that were read."""

from __future__ import annotations

import threading
from types import TracebackType

import numpy as np

from holitom.video import Fit, Progress, Resize, Video, metadata_of, room
from holitom.video.decoding import UntrustedError
from holitom.video.metadata import TimedMetadata
from holitom.video.reading import MiscountError, Source
from holitom.video.threads import mapped
from holitom.video.upright import Array


class AnewError(Exception):
    """The file's frames disagree with its packets, so they have to be read anew by `read`."""


class _StoppedError(Exception):
    """Ends the reading thread, when the stream is closed."""


class Stream:
    """Frames of one file, resized for a processor, which a thread reads inside a `with` block.

    Leaving the block ends the thread, also before all frames were read.

    Attributes:
        shape: `(F, h, w, 3)`: the shape of all frames.
    """

    def __init__(
        self,
        source: Source,
        resize: Resize,
        progress: Progress | None = None,
        threads: int | None = None,
    ) -> None:
        width, height = source.file.view.size
        self._source, self._resize, self._told, self._threads = source, resize, progress, threads
        self._frames = room(source, resize(np.zeros((height, width, 3), np.uint8), 0).shape)
        self.shape: tuple[int, ...] = self._frames.shape
        self._read = 0
        self._error: BaseException | None = None
        self._stopped = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="holitom-reader", daemon=True)

    @property
    def reading(self) -> bool:
        """Whether the thread reads."""
        return self._thread.is_alive()

    @property
    def metadata(self) -> TimedMetadata:
        """Metadata of all frames, whether they were read or not."""
        return metadata_of(self._source, self._source.numbers)

    @property
    def video(self) -> Video:
        """All frames. Waits until the last one was read."""
        frames = self.frames(0, len(self._frames))
        return Video(frames, self.metadata, self._source.reading, fitted=True)

    def part(self, first: int, last: int) -> Video:
        """Frames `first` to `last - 1` with their times. Waits, and raises errors, as `frames` does."""
        frames, source = self.frames(first, last), self._source
        return Video(frames, metadata_of(source, source.numbers[first:last]), fitted=True)

    def frames(self, first: int, last: int) -> Array:
        """Frames `first` to `last - 1`, `[last - first, h, w, 3]` uint8. Waits until they were read.

        Raises:
            AnewError: the file's frames disagree with its packets.
            VideoError: the file cannot be read.
        """
        with self._change:
            self._change.wait_for(lambda: self._read >= last or self._error is not None)
            if self._read < last and self._error is not None:
                if isinstance(self._error, (UntrustedError, MiscountError)):
                    raise AnewError from self._error
                raise self._error
        return self._frames[first:last]

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join()

    def _run(self) -> None:
        try:
            pictures = self._source.pictures(self._progress, threads=self._threads)
            images = mapped(lambda picture: picture.fitted(self._resize), pictures, self._threads)
            for i, image in enumerate(images):
                if self._stopped:
                    return
                self._frames[i] = image
                with self._change:
                    self._read = i + 1
                    self._change.notify_all()
        except BaseException as error:  # raised in the thread that asks for the frames
            with self._change:
                self._error = error
                self._change.notify_all()

    def _progress(self, done: int, of: int) -> None:
        if self._stopped:
            raise _StoppedError
        if self._told is not None:
            self._told(done, of)


def stream_of(
    source: Source, fit: Fit, progress: Progress | None = None, threads: int | None = None
) -> Stream | None:
    """The chosen frames of a file as a stream; None where `read` has to read them.

    None is returned where frames cannot be resized one at a time, and where a file's packets cannot number
    its frames.

    Args:
        source: the file, from `opened_source`.
        fit: how frames are resized.
        progress: called by the reading thread with the number of frames decoded and the number to decode.
        threads: largest number of threads of the decoder; None: as many as the codec takes.

    Raises:
        VideoError: the frames take too much memory.
    """
    width, height = source.file.view.size
    resize = None if source.doubt is not None else fit(len(source.numbers), height, width)
    return None if resize is None else Stream(source, resize, progress, threads)
