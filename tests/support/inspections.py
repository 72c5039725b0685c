"""Synthetic inspections: all that can be drawn, without a model."""

from __future__ import annotations

import numpy as np

from holitom.inspect import Inspection, Stage


def made_up(frames: int = 8, side: int = 4, height: int = 60, width: int = 90, seed: int = 0) -> Inspection:
    """Segments of up to four frames whose first row stands still; the rest is kept, joined or dropped."""
    rng = np.random.default_rng(seed)
    tokens = side * side
    place = np.arange(frames * tokens).reshape(frames, tokens)
    via, into = place.copy(), place.copy()
    for first in range(0, frames, 4):
        via[first : first + 4, :side] = place[first, :side]
        into[first : first + 4, :side] = place[first, 0]
    chance = rng.random((frames, tokens - side))
    into[:, side:] = np.where(
        chance < 0.3, -1, np.where(chance < 0.6, place[:, side : side + 1], into[:, side:])
    )
    into[:, side] = place[:, side]
    noise = rng.integers(0, 256, (frames, height // 10, width // 10, 3), dtype=np.uint8)
    return Inspection(
        title='<clip> & "more" </script><script>alert(1)</script>.mp4',
        method="HoliTom(retain_ratio=0.1)",
        model="tiny",
        grid=(side, side),
        via=via,
        into=into,
        segments=[(first, min(first + 3, frames - 1)) for first in range(0, frames, 4)],
        stages=[
            Stage("full", frames * tokens, 1000, 800),
            Stage("spatial", int((into == place).sum()), 100, 80),
        ],
        frames=noise.repeat(10, axis=1).repeat(10, axis=2),
        numbers=np.arange(frames) * 3,
        seconds=np.arange(frames) * 0.12,
        importance=rng.random((frames, tokens)).astype(np.float32),
        similarity=rng.random((max(0, frames - 1), tokens)).astype(np.float32),
        threshold=0.8,
        survivors={2: (into == place) & (place % 2 == 0)},
        question="What </p> happens?",
        answer="nothing",
    )
