"""Training frames that are crowded with digits and shapes, of which the benchmark's videos show few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from holitom.bench import moving_digits as md


def crowd(index: int, digits: int = 10, flashes: int = 4, distinct: bool = False) -> md.Sample:
    """Make one training frame crowded with digits and shapes; `index` seeds it.

    Only with `distinct` (at most eight digits) are colours told apart, so that questions can be asked.
    """
    rng = np.random.default_rng([17, index])
    background = rng.integers(len(md.BACKGROUNDS), size=1)
    places = rng.permutation(md.GRID * md.GRID)[: digits + flashes]
    cells = np.stack([places % md.GRID, places // md.GRID], 1)
    shown = [
        md.Digit(0, int(rng.integers(10)), int(rng.integers(len(md.COLORS))), 0, 0, cell[None])
        for cell in cells[:digits]
    ]
    shapes = [md.Flash(int(rng.integers(len(md.SHAPES))), (int(x), int(y)), 0, 1) for x, y in cells[digits:]]
    if distinct:
        colors = rng.permutation(len(md.COLORS))
        shown = [replace(d, color=int(c)) for d, c in zip(shown, colors, strict=False)]
    scene = np.zeros(1, np.int64)
    frames = md.render(rng, "train", scene, background, shown, shapes)
    return md.Sample(frames, tuple(shown), tuple(shapes), scene, background)
