"""Choose frames by what changes: those that together show the most of what many candidates show.

Frames are compared as thumbnails, each place with the range of colours around the same place of another
frame, so that a view that moves a little shows nothing new. Of a candidate that is not chosen those places
are missed that neither the chosen frame before it nor the one behind it shows. A dynamic programme finds the
frames that miss exactly the least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from holitom.video.upright import Array

CANDIDATES = 4
"""Number of candidates for each frame that is chosen."""

PLACES = 1024
"""Number of places of a thumbnail, about: 43 x 24 of a wide picture."""

AROUND = 3
"""Places to each side among which a place's colour may be in another frame."""

LEVELS = 16
"""Difference, in levels of 0..255, by which a place has to leave the range of colours to be new."""

EVENNESS = 3e-3
"""Share of a picture as which each step from a candidate to the nearest chosen frame counts, so that frames
of a still video are spread."""

LONGEST = 4
"""Longest gap between chosen frames, in even ones: no stretch of a video is without a frame."""

BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)

Floats = NDArray[np.float64]


def thumbnail(frame: Array) -> Array:
    """Shrink a frame `[H, W, 3]` to `[h, w, 3]` uint8 of about `PLACES` places by means of its pixels."""
    height, width = frame.shape[:2]
    scale = min(1.0, (PLACES / (height * width)) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def chosen_of(frames: Array, count: int) -> list[int]:
    """Choose `count` of the `frames` `[n, H, W, 3]` uint8, which are the candidates; indices, rising."""
    return chosen(np.stack([thumbnail(frame) for frame in frames]), count)


def chosen(thumbnails: Array, count: int) -> list[int]:
    """Choose `count` of the candidates with these `thumbnails` `[n, h, w, 3]`; indices, rising."""
    total = len(thumbnails)
    if count >= total:
        return list(range(total))
    longest = min(total, LONGEST * -(-total // count))
    places = thumbnails.shape[1] * thumbnails.shape[2]
    first, steps, last = missed(not_shown(thumbnails, longest), places)
    gap = np.arange(1, longest + 1)
    ends = EVENNESS * np.arange(total) * np.arange(1, total + 1) / 2
    return cheapest(first + ends, steps + EVENNESS * (gap * gap // 4), last + ends[::-1], count)


def not_shown(thumbnails: Array, reach: int) -> Array:
    """Compare every two of `n` candidates that are at most `reach` apart.

    Returns:
        `[n, 2 * reach + 1, b]` uint8: at `(j, reach + k)` a bit for each place of candidate `j + k`: whether
        its colour leaves, in any channel, the range of those around the same place of candidate `j` by more
        than `LEVELS`. No bit is set where there is no candidate `j + k`.
    """
    total = len(thumbnails)
    levels = thumbnails.astype(np.int16)
    lowest = _around(levels, np.minimum) - LEVELS
    highest = _around(levels, np.maximum) + LEVELS
    found = np.zeros((total, 2 * reach + 1, -(-levels[0, ..., 0].size // 8)), np.uint8)
    for k in range(1, min(reach + 1, total)):
        for step, of, by in ((k, slice(k, None), slice(-k)), (-k, slice(-k), slice(k, None))):
            new = ((levels[of] < lowest[by]) | (levels[of] > highest[by])).any(-1)
            found[by, reach + step] = np.packbits(new.reshape(total - k, -1), 1)
    return found


def _around(levels: NDArray[np.int16], extreme: np.ufunc) -> NDArray[np.int16]:
    """The `extreme` of `levels` `[n, h, w, 3]` among the places at most `AROUND` away, in both directions."""
    for axis in (1, 2):
        edges = [(AROUND, AROUND) if i == axis else (0, 0) for i in range(levels.ndim)]
        padded = np.pad(levels, edges, mode="edge")
        levels = extreme.reduce(np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1, axis), -1)
    return levels


def missed(new: Array, places: int) -> tuple[Floats, Floats, Floats]:
    """Sum the shares of the candidates' places that chosen frames do not show.

    Args:
        new: `[n, 2 * reach + 1, b]`, from `not_shown`.
        places: number of places of a candidate.

    Returns:
        `first` `[n]`: what is missed before candidate `j` if it is the first chosen frame; `steps`
        `[n, reach]`: at `(j, m - 1)` what is missed between `j` and `j + m` if none is chosen between them;
        `last` `[n]`: what is missed behind `j` if it is the last. Infinite where a gap is longer than
        `reach`, or there is no candidate.
    """
    total, reach = len(new), new.shape[1] // 2
    steps = np.full((total, reach), np.inf)
    for m in range(1, min(reach + 1, total)):
        # Candidates j + 1 .. j + m - 1, as seen from j and from j + m.
        neither = new[:-m, reach + 1 : reach + m] & new[m:, reach - m + 1 : reach]
        steps[:-m, m - 1] = BITS[neither].sum((1, 2), dtype=np.int64) / places
    alone = BITS[new].sum(2, dtype=np.int64) / places
    first, last = alone[:, :reach].sum(1), alone[:, reach + 1 :].sum(1)
    first[reach:] = np.inf
    last[: max(0, total - reach)] = np.inf
    return first, steps, last


def cheapest(first: Floats, steps: Floats, last: Floats, count: int) -> list[int]:
    """Choose `count` of `n` frames, rising, with the least sum of costs; other arguments as from `missed`."""
    total, reach = steps.shape
    before = np.arange(total)[:, None] - np.arange(1, reach + 1)
    cost = np.where(before < 0, np.inf, steps[before.clip(0), np.arange(reach)])
    before = before.clip(0)
    best, came = first, []
    for _ in range(count - 1):
        sums = best[before] + cost
        came.append(sums.argmin(1))
        best = np.take_along_axis(sums, came[-1][:, None], 1)[:, 0]
    found = [int((best + last).argmin())]
    for steps_back in reversed(came):
        found.append(found[-1] - 1 - int(steps_back[found[-1]]))
    return found[::-1]
