"""MovingDigits-QA: a synthetic video benchmark that needs spatial and temporal detail to answer.

Handwritten digits (scikit-learn's, 8 x 8) in colour stand or move over still textured backgrounds, in
videos of one to four scenes with hard cuts; a black shape flashes for a frame or two. Seven tasks ask
for identity, motion, count, order, the flash (a needle), position and the number of scenes.

Every sample is a pure function of `(split, index, frames)`. The splits share no seeds, and the train split
shares no digit images with the others: they draw from digits that it never shows. In a video of the split
"long" the cuts lie anywhere, so that a scene may be short, and the shape flashes for one frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test", "long"]
Array = NDArray[np.float32]
Camera = Callable[[Array, Array], Array]
"""From the frames of a still camera and their backgrounds, both `[F, H, W, 3]`, to the frames of another."""

CELL, GRID = 16, 7
SIDE = CELL * GRID

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLORS = {
    "red": (228, 38, 38),
    "green": (48, 210, 60),
    "blue": (70, 105, 255),
    "yellow": (250, 228, 45),
    "cyan": (55, 230, 240),
    "pink": (250, 95, 210),
    "white": (250, 250, 250),
    "orange": (252, 138, 22),
}
SHAPES = ("square", "circle", "triangle", "cross", "ring", "diamond")
MOTIONS = {"nowhere": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
BACKGROUNDS = ((112, 82, 52), (44, 58, 112), (48, 98, 56), (98, 54, 100), (92, 98, 104), (36, 100, 108))
TASKS = ("identity", "motion", "count", "order", "needle", "position", "scenes")

MAX_SCENES, MAX_DIGITS_A_SCENE, MIN_SCENE_FRAMES = 4, 3, 3
TEST_DIGITS = 360


class Question(NamedTuple):
    """One question about a sample, in words that the bundled model's tokenizer knows."""

    task: str
    text: str
    answer: str


@dataclass(frozen=True)
class Digit:
    """One digit: what it is and where it is in each frame of its scene."""

    scene: int
    number: int
    color: int
    motion: int
    start: int
    cells: NDArray[np.int64]
    """`[L, 2]`: column and row in frames `start .. start + L - 1`."""


@dataclass(frozen=True)
class Flash:
    """The needle: a shape in one cell for frames `start .. stop - 1`."""

    shape: int
    cell: tuple[int, int]
    start: int
    stop: int


@dataclass(frozen=True)
class Sample:
    """One video with everything that is true of it.

    Attributes:
        frames: `[F, 112, 112, 3]` uint8.
        digits: every digit of every scene.
        flashes: the shape that flashes (one in every video; a crowded training frame shows several).
        scene: `[F]`: the scene that each frame belongs to.
        background: `[scenes]`: the colour family of each scene's background, all different.
        questions: every question that can be asked, in a fixed order.
    """

    frames: NDArray[np.uint8]
    digits: tuple[Digit, ...]
    flashes: tuple[Flash, ...]
    scene: NDArray[np.int64]
    background: NDArray[np.int64]

    @property
    def scenes(self) -> int:
        return len(self.background)

    @property
    def questions(self) -> list[Question]:
        colors = list(COLORS)
        last = self.scenes - 1
        by_scene = [[d for d in self.digits if d.scene == s] for s in range(self.scenes)]
        asked = [Question("scenes", "How many scenes are there?", NUMBERS[self.scenes])]
        asked += [Question("needle", "Which shape flashes?", SHAPES[flash.shape]) for flash in self.flashes]
        for word, s in (("first", 0), ("last", last)):
            text = f"How many digits are in the {word} scene?"
            asked.append(Question("count", text, NUMBERS[len(by_scene[s])]))
            if self.scenes > 1 and len(by_scene[s]) == 1:
                asked.append(Question("order", f"Which color comes {word}?", colors[by_scene[s][0].color]))
        for digit in self.digits:
            color = colors[digit.color]
            asked.append(Question("identity", f"Which digit is {color}?", NUMBERS[digit.number]))
            if len(digit.cells) > 1:
                text = f"Which way does the {color} digit move?"
                asked.append(Question("motion", text, list(MOTIONS)[digit.motion]))
            for word, cell in (("start", digit.cells[0]), ("end", digit.cells[-1])):
                if quadrant := _quadrant(*cell):
                    text = f"Where is the {color} digit at the {word}?"
                    asked.append(Question("position", text, quadrant))
        return asked


def sample(split: Split, index: int, frames: int = 16, camera: Camera | None = None) -> Sample:
    """Make sample `index` of `split` with `frames` frames.

    `camera` moves (`moving_camera`); None stands still.

    Raises:
        ValueError: for `frames < 1` or a negative index.
    """
    if frames < 1 or index < 0:
        raise ValueError(f"frames must be at least 1 and index at least 0, not {frames} and {index}")
    rng = np.random.default_rng([{"train": 11, "test": 29, "long": 61}[split], index])
    scene = _cut(rng, frames, anywhere=split == "long")
    background = rng.permutation(len(BACKGROUNDS))[: scene[-1] + 1]
    digits = _place_digits(rng, scene)
    flashes = [_place_flash(rng, scene, digits, most=1 if split == "long" else 2)]
    video = render(rng, split, scene, background, digits, flashes, camera)
    return Sample(video, tuple(digits), tuple(flashes), scene, background)


# --- what happens in a video ------------------------------------------------------------------------


def _cut(rng: np.random.Generator, frames: int, anywhere: bool) -> NDArray[np.int64]:
    """Cut the video into one to four scenes of at least three frames (fewer where they do not fit).

    With `anywhere` there are two scenes or more where they fit, and every way to cut is as likely as another.
    """
    most = max(1, min(MAX_SCENES, frames // MIN_SCENE_FRAMES))
    scenes = int(rng.integers(min(2, most) if anywhere else 1, most + 1))
    spare = frames - scenes * MIN_SCENE_FRAMES
    if scenes == 1:
        return np.zeros(frames, np.int64)
    if anywhere:
        bars = np.sort(rng.choice(spare + scenes - 1, scenes - 1, replace=False))
        extra = np.diff([-1, *bars, spare + scenes - 1]) - 1
    else:
        extra = np.bincount(rng.integers(0, scenes, spare), minlength=scenes)
    return np.repeat(np.arange(scenes), MIN_SCENE_FRAMES + extra)


def _place_digits(rng: np.random.Generator, scene: NDArray[np.int64]) -> list[Digit]:
    """Give every scene one to three digits, of colours that no other digit of the video has."""
    colors = list(rng.permutation(len(COLORS)))
    digits: list[Digit] = []
    scenes = int(scene[-1]) + 1
    for s in range(scenes):
        span = np.flatnonzero(scene == s)
        taken: list[NDArray[np.int64]] = []
        spare = len(colors) - (scenes - 1 - s)  # leave a colour for every scene to come
        for _ in range(min(int(rng.integers(1, MAX_DIGITS_A_SCENE + 1)), spare)):
            motion, cells = _path(rng, len(span), taken)
            taken.append(cells)
            digits.append(Digit(s, int(rng.integers(10)), int(colors.pop()), motion, int(span[0]), cells))
    return digits


def _path(
    rng: np.random.Generator, frames: int, taken: list[NDArray[np.int64]]
) -> tuple[int, NDArray[np.int64]]:
    """Draw a still or straight path in whole cells that meets no other digit of the scene."""
    while True:
        motion = int(rng.integers(len(MOTIONS))) if frames > 1 else 0
        direction = np.array(list(MOTIONS.values())[motion])
        length = int(rng.integers(2, GRID)) if motion else 0
        travel = direction * length
        low, high = np.maximum(0, -travel), GRID - 1 - np.maximum(0, travel)
        first = rng.integers(low, high + 1)
        steps = np.rint(np.linspace(0, length, frames)).astype(np.int64)
        cells = first + steps[:, None] * direction
        if all((cells != other).any(axis=1).all() for other in taken):
            return motion, cells


def _place_flash(rng: np.random.Generator, scene: NDArray[np.int64], digits: list[Digit], most: int) -> Flash:
    """Flash a shape for one to `most` frames in a cell that no digit of the scene is in."""
    start = int(rng.integers(len(scene)))
    stop = min(start + int(rng.integers(1, most + 1)), int(np.flatnonzero(scene == scene[start])[-1]) + 1)
    here = [d for d in digits if d.scene == scene[start]]
    taken = {(int(x), int(y)) for d in here for x, y in d.cells[start - d.start : stop - d.start]}
    free = [(x, y) for x in range(GRID) for y in range(GRID) if (x, y) not in taken]
    return Flash(int(rng.integers(len(SHAPES))), free[int(rng.integers(len(free)))], start, stop)


# --- what it looks like -----------------------------------------------------------------------------


@cache
def _glyphs(split: Split) -> tuple[Array, NDArray[np.int64]]:
    """Digit images `[n, variants, 16, 16]` in 0..1 and their classes; train digits are also bent a little."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "MovingDigits-QA needs scikit-learn's digits: pip install 'holitom[bench]'"
        ) from error
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(123).permutation(len(classes))
    chosen = order[TEST_DIGITS:] if split == "train" else order[:TEST_DIGITS]
    small = images.reshape(-1, 8, 8)[chosen].astype(np.float32) / 16
    rng = np.random.default_rng(5)
    variants = 8 if split == "train" else 1
    warped = [_warp(small, rng, bend=float(v > 0)) for v in range(variants)]
    return np.clip(np.stack(warped, 1) * 1.35 - 0.1, 0, 1), classes[chosen]


def _warp(images: Array, rng: np.random.Generator, bend: float) -> Array:
    """Enlarge 8 x 8 images to 16 x 16, each turned, scaled, sheared and moved by a small random amount."""
    n = len(images)
    angle, shear = rng.uniform(-0.16, 0.16, (2, n)) * bend
    zoom = 1 + rng.uniform(-0.08, 0.08, (2, n)) * bend
    shift = rng.uniform(-0.35, 0.35, (2, n)) * bend
    axis = (np.arange(CELL) + 0.5) / 2 - 4
    y, x = np.meshgrid(axis, axis, indexing="ij")
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u = (
        (cos * x - sin * y + shear[:, None, None] * y) * zoom[0, :, None, None]
        + shift[0, :, None, None]
        + 3.5
    )
    v = (sin * x + cos * y) * zoom[1, :, None, None] + shift[1, :, None, None] + 3.5
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    u, v = np.clip(u, -1, 8) + 1, np.clip(v, -1, 8) + 1
    left, top = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fx, fy = u - left, v - top
    pick = np.arange(n)[:, None, None]
    upper = padded[pick, top, left] * (1 - fx) + padded[pick, top, left + 1] * fx
    lower = padded[pick, top + 1, left] * (1 - fx) + padded[pick, top + 1, left + 1] * fx
    warped: Array = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return warped


@cache
def _masks() -> Array:
    """The shapes that flash, `[6, 16, 16]` in 0..1."""
    axis = (np.arange(CELL) - (CELL - 1) / 2) / (CELL / 2)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(x, y)
    masks = (
        np.maximum(abs(x), abs(y)) < 0.78,
        radius < 0.85,
        (y < 0.8) & (abs(x) < (y + 0.9) / 1.8),
        (np.minimum(abs(x), abs(y)) < 0.26) & (np.maximum(abs(x), abs(y)) < 0.92),
        (radius < 0.92) & (radius > 0.5),
        abs(x) + abs(y) < 0.92,
    )
    return np.stack(masks).astype(np.float32)


@cache
def _stretch(points: int) -> Array:
    """`[112, points]`: smooth interpolation of a few points over the whole width."""
    place = np.linspace(0, points - 1, SIDE)
    left = np.minimum(place.astype(np.int64), points - 2)
    ease = (place - left) ** 2 * (3 - 2 * (place - left))
    weights = np.zeros((SIDE, points), np.float32)
    weights[np.arange(SIDE), left] = 1 - ease
    weights[np.arange(SIDE), left + 1] = ease
    return weights


@cache
def _noise() -> Array:
    """One field of sensor noise; every frame shows another window of it."""
    return np.random.default_rng(7).normal(0, 2.0, (2 * SIDE, 2 * SIDE, 3)).astype(np.float32)


def _paint_background(rng: np.random.Generator, family: int) -> Array:
    """A still background `[112, 112, 3]`: a colour family, soft patches and a fine weave."""
    points = int(rng.integers(3, 8))
    stretch = _stretch(points)
    patches = rng.uniform(-16, 16, (points, points, 3)).astype(np.float32)
    soft = np.tensordot(stretch, np.tensordot(stretch, patches, (1, 0)), (1, 1)).transpose(1, 0, 2)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    angle, wave, phase = rng.uniform(0, np.pi), rng.uniform(0.25, 0.9), rng.uniform(0, 6.28)
    weave = rng.uniform(3, 9) * np.sin((np.cos(angle) * x + np.sin(angle) * y) * wave + phase)
    tint = np.array(BACKGROUNDS[family], np.float32) + rng.uniform(-10, 10, 3).astype(np.float32)
    background: Array = tint + soft + weave[..., None].astype(np.float32)
    return background


def render(
    rng: np.random.Generator,
    split: Split,
    scene: NDArray[np.int64],
    background: NDArray[np.int64],
    digits: list[Digit],
    flashes: list[Flash],
    camera: Camera | None = None,
) -> NDArray[np.uint8]:
    """Draw the frames of a video, `[F, 112, 112, 3]`."""
    stills = np.stack([_paint_background(rng, int(family)) for family in background])
    video = stills[scene]
    images, classes = _glyphs(split)
    palette = np.array(list(COLORS.values()), np.float32)
    for digit in digits:
        glyph = images[rng.choice(np.flatnonzero(classes == digit.number)), rng.integers(images.shape[1])]
        ink = np.clip(palette[digit.color] + rng.uniform(-10, 10, 3).astype(np.float32), 0, 255)
        for t, (x, y) in enumerate(digit.cells, digit.start):
            _stamp(video[t], x, y, glyph, ink)
    for flash in flashes:
        for t in range(flash.start, flash.stop):
            _stamp(video[t], *flash.cell, _masks()[flash.shape], np.full(3, 6, np.float32))
    if camera is not None:
        video = camera(video, stills[scene])
    noise = _noise()
    for t, (dy, dx) in enumerate(rng.integers(0, SIDE, (len(scene), 2))):
        video[t] += noise[dy : dy + SIDE, dx : dx + SIDE]
    return np.clip(video, 0, 255).astype(np.uint8)


def _stamp(frame: Array, x: int, y: int, mask: Array, ink: Array) -> None:
    patch = frame[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]
    patch += mask[..., None] * (ink - patch)


def _quadrant(x: int, y: int) -> str | None:
    """The quarter of the picture that a cell is in; None on the middle row or column."""
    middle = GRID // 2
    if x == middle or y == middle:
        return None
    return f"{'top' if y < middle else 'bottom'} {'left' if x < middle else 'right'}"
