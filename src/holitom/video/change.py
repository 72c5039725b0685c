"""Choose frames by what changes: those that together show the most of what many candidates show.

Frames are compared as thumbnails, each place with the range of colours around the same place of another
frame, so that a view that moves a little shows nothing new. A dynamic programme divides the candidates into
groups of successive frames, each of which one frame stands for, with exactly the least that is not shown.
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

EVENNESS = 1e-3
"""Share of a picture as which one step between a frame and the one that stands for it counts, so that frames
of a still video are spread."""

REACH = 4
"""Longest group, in groups of even length: no stretch of a video is without a frame."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
    reach = min(total, REACH * -(-total // count))
    unseen = not_shown(thumbnails, reach)
    apart = np.abs(np.arange(1 - reach, reach))[None]
    return medoids(unseen + EVENNESS * apart, count)


def not_shown(thumbnails: Array, reach: int) -> Floats:
    """Compare every two of `n` candidates that are less than `reach` apart.

    Returns:
        `[n, 2 * reach - 1]`: at `(j, reach - 1 + k)` the share of the places of candidate `j + k` whose
        colour leaves, in any channel, the range of those around the same place of candidate `j` by more than
        `LEVELS`; 0 where there is no candidate `j + k`.
    """
    total = len(thumbnails)
    levels = thumbnails.astype(np.int16)
    lowest = _around(levels, np.minimum) - LEVELS
    highest = _around(levels, np.maximum) + LEVELS
    found = np.zeros((total, 2 * reach - 1))
    for k in range(1, min(reach, total)):
        for step, of, by in ((k, levels[k:], slice(None, -k)), (-k, levels[:-k], slice(k, None))):
            new = ((of < lowest[by]) | (of > highest[by])).any(-1)
            found[by, reach - 1 + step] = new.mean((1, 2))
    return found


def _around(levels: NDArray[np.int16], extreme: np.ufunc) -> NDArray[np.int16]:
    """The `extreme` of `levels` `[n, h, w, 3]` among the places at most `AROUND` away, in both directions."""
    for axis in (1, 2):
        length = levels.shape[axis]
        edges = [(AROUND, AROUND) if i == axis else (0, 0) for i in range(levels.ndim)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(levels, edges, mode="edge"), 2 * AROUND + 1, axis
        )
        levels = extreme.reduce(windows, -1)
        assert levels.shape[axis] == length
    return levels


def medoids(cost: Floats, count: int) -> list[int]:
    """Divide `n` frames into `count` groups of successive ones, each with the frame that stands for it.

    Args:
        cost: `[n, 2 * reach - 1]`: at `(j, reach - 1 + k)` the cost of frame `j + k` where frame `j` stands
            for it. A group has at most `reach` frames.
        count: number of groups, at most `n`, with `count * reach >= n`.

    Returns:
        The frames that stand for the groups, rising, of the division with the least cost in all.
    """
    total, reach = len(cost), (cost.shape[1] + 1) // 2
    of_group, stands = _groups(cost)
    best = np.full(total + 1, np.inf)
    best[0] = 0
    lengths = []
    ends = np.arange(total + 1)[:, None]
    starts = ends - np.arange(1, reach + 1)
    inside = starts >= 0
    starts = np.where(inside, starts, 0)
    of_end = np.where(inside, of_group[np.minimum(starts, total - 1), np.arange(reach)], np.inf)
    for _ in range(count):
        whole = best[starts] + of_end
        lengths.append(whole.argmin(1))
        best = np.take_along_axis(whole, lengths[-1][:, None], 1)[:, 0]
    found, end = [], total
    for length in reversed(lengths):
        start = end - 1 - int(length[end])
        found.append(int(stands[start, length[end]]))
        end = start
    return found[::-1]


def _groups(cost: Floats) -> tuple[Floats, Ints]:
    """The least cost of the group of frames `s .. s + m`, at `(s, m)`, and the frame that gives it.

    Infinite where there is no frame `s + m`.
    """
    total, reach = len(cost), (cost.shape[1] + 1) // 2
    # Sums over the first frames that a frame may stand for: a group's cost is a difference of two.
    sums = np.concatenate([np.zeros((total, 1)), cost.cumsum(1)], 1)
    least, stands = np.full((total, reach), np.inf), np.zeros((total, reach), np.int64)
    for m in range(min(reach, total)):
        starts = np.arange(total - m)[:, None]
        q = np.arange(m + 1)[None]
        costs = sums[starts + q, reach + m - q] - sums[starts + q, reach - 1 - q]
        at = costs.argmin(1)
        least[: total - m, m] = np.take_along_axis(costs, at[:, None], 1)[:, 0]
        stands[: total - m, m] = starts[:, 0] + at
    return least, stands
