"""Convert decoded frames to RGB as a player shows them: rotated, mirrored and scaled to one size."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import av
import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

Array = NDArray[np.uint8]

Resize = Callable[[Array, int], Array]
"""From a frame `[H, W, 3]` uint8 RGB and its number to the size in which a processor takes it, `[h, w, 3]`
uint8. Several threads call it at once."""

Fit = Callable[[int, int, int], Resize | None]
"""From a video's number of frames, height and width to the `Resize` of one of its frames; None where frames
cannot be resized one at a time. `holitom.video.fitting.fit_of(processor)` returns a `Fit`."""


@dataclass(frozen=True)
class View:
    """Size and rotation of the frames of one file, from its first frame.

    Attributes:
        width, height: size of the first decoded frame in pixels; other frames are scaled to it, as by ffmpeg.
        swap: whether rows become columns, before mirroring.
        mirror_x, mirror_y: whether left and right, and top and bottom, are exchanged.
        reformatter: converts the frames; a frame's own would be set up anew for each frame.
        lock: held while `reformatter` converts a frame, which it does in several threads of its own.
    """

    width: int
    height: int
    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    reformatter: VideoReformatter = field(default_factory=VideoReformatter, compare=False, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        return (self.height, self.width) if self.swap else (self.width, self.height)

    def rgb(self, frame: av.VideoFrame) -> Array:
        """Convert a frame to `[height, width, 3]` uint8 as shown."""
        with self.lock:
            if (frame.width, frame.height) == (self.width, self.height):
                frame = self.reformatter.reformat(frame, format="rgb24")
            else:
                size = self.width, self.height
                frame = self.reformatter.reformat(frame, *size, "rgb24", interpolation=Interpolation.BICUBIC)
        image: Array = frame.to_ndarray()  # type: ignore[assignment]
        if self.swap:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


class Shown(Protocol):
    """One frame of a file."""

    @property
    def number(self) -> int:
        """Number of the frame in its file."""

    @property
    def pts(self) -> int | None:
        """The frame's timestamp from the decoder."""

    def fitted(self, resize: Resize | None) -> Array:
        """The frame as `[h, w, 3]` uint8 RGB, resized by `resize`."""


@dataclass(frozen=True)
class Picture:
    """One decoded frame, which becomes RGB when that is requested.

    Attributes:
        number: number of the frame in its file.
        frame: the frame as the decoder gave it.
        view: size and rotation of the file's frames.
    """

    number: int
    frame: av.VideoFrame
    view: View

    @property
    def pts(self) -> int | None:
        """The frame's timestamp from the decoder."""
        return self.frame.pts

    @property
    def image(self) -> Array:
        """The frame as `[height, width, 3]` uint8 RGB, converted anew each time."""
        return self.view.rgb(self.frame)

    def fitted(self, resize: Resize | None) -> Array:
        """The frame as `[h, w, 3]` uint8 RGB, resized by `resize`."""
        return self.image if resize is None else resize(self.image, self.number)

    @property
    def size(self) -> int:
        """Bytes of memory that the decoded frame takes."""
        return sum(plane.buffer_size for plane in self.frame.planes)


@dataclass(frozen=True)
class Resized:
    """One frame of which only the resized form was kept.

    Attributes:
        number: number of the frame in its file.
        pts: its timestamp from the decoder.
        image: `[h, w, 3]` uint8 RGB.
    """

    number: int
    pts: int | None
    image: Array

    @property
    def size(self) -> int:
        """Bytes of memory that the frame takes."""
        return self.image.nbytes

    def fitted(self, resize: Resize | None) -> Array:
        """The frame as it is, which `resize` has made."""
        return self.image


def view_of(frame: av.VideoFrame) -> View:
    """The view of a file, from its first frame."""
    return View(frame.width, frame.height, *_turn(frame))


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """`swap`, `mirror_x` and `mirror_y` of the frame's display matrix.

    The matrix maps a pixel at (x, y) to (a x + c y, b x + d y). Files have one of the eight matrices of
    quarter turns and mirroring; another angle is rounded to the nearest of them.
    """
    data = _display_matrix(frame)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(data, np.int32))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    data: SideData | None = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    return None if data is None else bytes(data)
