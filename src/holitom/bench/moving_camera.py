"""A moving camera before the videos of MovingDigits-QA: it pans, zooms or shakes.

Scenes, digits, questions and answers are those of the still camera; only the view of each frame moves. What
lies beyond a scene's edge is its background, mirrored. Motion in questions is motion over the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from holitom.bench import moving_digits as md
from holitom.bench.questions import FRAMES
from holitom.errors import SettingsError
from holitom.methods.base import require
from holitom.prompts import as_video
from holitom.video import Sampling, Video
from holitom.video.change import CANDIDATES, chosen_of
from holitom.video.sampling import spread

STILL = "still"
CAMERAS = (STILL, "pan", "zoom", "shake")
"""Cameras: still; swinging by up to `SWING` pixels to each side along a line, in 8 to 16 frames there and
back; zooming out to `WIDEST` times the view and in again, in 8 to 16 frames; jumping by up to `JUMP` pixels
in each direction from frame to frame."""

SWING, WIDEST, JUMP = 8.0, 1.25, 4.0
MARGIN = 24
"""Pixels beyond the edge that a view may show, at least `SWING` and half of what `WIDEST` adds."""

Array = NDArray[np.float32]


class View(NamedTuple):
    """What a model is shown of each held-out video.

    Attributes:
        camera: a name in `CAMERAS`.
        frames: number of frames, of `FRAMES`.
        frames_by: how they are chosen, "time" or "change", as by `load_video`.
    """

    camera: str = STILL
    frames: int = FRAMES
    frames_by: str = "time"

    def check(self) -> None:
        """Raise a `SettingsError` for a value that is unknown or out of its range."""
        check_camera(self.camera)
        Sampling(frames_by=cast("Any", self.frames_by))
        require("frames", self.frames, f"in 1..{FRAMES}", lambda n: 1 <= n <= FRAMES, whole=True)

    def folder(self, of_all: Path) -> Path:
        """Folder of the answers, in that of the answers about whole videos of a still camera."""
        folder = of_all if self.camera == STILL else of_all / self.camera
        return folder if self.frames == FRAMES else folder / f"{self.frames}-frames-by-{self.frames_by}"

    @property
    def title(self) -> str:
        """Words that follow the benchmark's name."""
        words = "" if self.camera == STILL else f", moving camera ({self.camera})"
        return words if self.frames == FRAMES else f"{words}, {self.frames} frames by {self.frames_by}"


WHOLE = View()
"""All frames, by a still camera."""


def check_camera(name: str) -> None:
    """Raise a `SettingsError` for a camera that is not in `CAMERAS`."""
    if name not in CAMERAS:
        raise SettingsError(f"unknown camera {name!r}; known: {', '.join(CAMERAS)}")


def camera(name: str, seed: Sequence[int]) -> md.Camera | None:
    """The camera called `name` in `CAMERAS`, whose path `seed` determines; None for a still one."""
    if name == STILL:
        return None

    def view(video: Array, stills: Array) -> Array:
        shift, scale = path(name, len(video), np.random.default_rng(seed))
        return seen(video, stills, shift, scale)

    return view


def path(name: str, frames: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw the view of each frame: its shift `[F, 2]` (x, y) in pixels, and its width `[F]` in widths of a
    still view."""
    shift, scale = np.zeros((frames, 2), np.float32), np.ones(frames, np.float32)
    phase = 2 * np.pi * (rng.uniform() + np.arange(frames) / rng.uniform(8, 16))
    if name == "pan":
        angle = rng.uniform(0, 2 * np.pi)
        shift += SWING * np.sin(phase)[:, None] * [np.cos(angle), np.sin(angle)]
    elif name == "zoom":
        scale += (WIDEST - 1) * (1 - np.cos(phase)) / 2
    else:
        shift += rng.uniform(-JUMP, JUMP, shift.shape)
    return shift, scale


def seen(video: Array, stills: Array, shift: Array, scale: Array) -> Array:
    """Render frames `[F, H, W, 3]` as a moving camera sees them, interpolated bilinearly.

    Args:
        video: frames of a still camera.
        stills: `[F, H, W, 3]`: the background of each frame.
        shift: as in `path`.
        scale: as in `path`.
    """
    edges = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    world = np.pad(stills, edges, mode="symmetric")
    world[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = video
    side = video.shape[1]
    axis = (np.arange(side) - (side - 1) / 2) * scale[:, None] + (side - 1) / 2 + MARGIN
    across, down = (weights(axis + shift[:, i, None], world.shape[1]) for i in (0, 1))
    moved: Array = np.einsum("fyi,fijc,fxj->fyxc", down, world, across, optimize=True).astype(np.float32)
    return moved


def weights(at: Array, size: int) -> Array:
    """Weights `[F, n, size]` that interpolate linearly at the places `at` `[F, n]` of `size` pixels."""
    found: Array = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(size))).astype(np.float32)
    return found


def shown(video: int, view: View = WHOLE) -> Video:
    """Draw the frames of a held-out video that `view` shows, two a second before some are chosen."""
    whole = frames(video, view.camera)
    numbers = spread(FRAMES, view.frames)
    if view.frames_by == "change":
        candidates = spread(FRAMES, CANDIDATES * view.frames)
        numbers = [candidates[i] for i in chosen_of(whole[candidates], view.frames)]
    return as_video(whole).at(numbers)


def frames(video: int, name: str) -> NDArray[np.uint8]:
    """Draw the frames `[T, H, W, 3]` of a held-out video before the camera called `name`."""
    return md.sample("test", video, FRAMES, camera=camera(name, [83, video])).frames
