"""Plan of reuse: which places of each frame are computed, and which reference frame the others are taken
from.

A place is one patch of a frame, or one block of patches where the tower merges blocks. A video is cut into
groups of successive frames. One frame of each group, its reference, is computed whole; of the other frames,
those places are computed that differ from the reference. Groups and references are chosen so that the fewest
places are computed. All of this is host arithmetic on counts, without a model.

Six frames of 10 places in groups of at most R = 3, where frames 0 to 2 differ in 1 place from one another and
from frame 3 in all (`costs` of frames 3 to 5 likewise among themselves):

    frame           0   1   2 | 3   4   5
    reference       0   0   0 | 3   3   3
    computed       10   1   1 |10   1   1      24 of 60 places
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

OWN_SHARE = 0.7
"""A frame of which a larger share differs from its reference is computed whole, as its own reference."""

STOCK_SHARE = 0.9
"""A video of which a larger share would be computed is computed whole, since reuse would save too little."""


@dataclass(frozen=True)
class Plan:
    """The computed places of one video.

    Attributes:
        computed: `[T, S]` bool: whether a place is computed.
        reference: `[T]` int64: the frame that the other places are taken from; the frame itself where it is
            computed whole.
    """

    computed: Mask
    reference: Ints

    @property
    def share(self) -> float:
        """Share of the places that are computed, in (0, 1]."""
        return float(self.computed.mean())

    @property
    def whole(self) -> bool:
        """Whether all places are computed."""
        return bool(self.computed.all())

    @property
    def references(self) -> tuple[int, ...]:
        """The frames that are computed whole, ascending."""
        return tuple(map(int, np.unique(self.reference)))

    @classmethod
    def everything(cls, frames: int, places: int) -> Plan:
        """The plan that computes all `places` of all `frames`."""
        return cls(np.ones((frames, places), dtype=np.bool_), np.arange(frames, dtype=np.int64))


def plan(changed: Mask) -> Plan:
    """Find the plan that computes the fewest places of a video.

    Args:
        changed: `[R - 1, T, S]` bool: at `(k - 1, t, s)`, whether place `s` differs between frames `t` and
            `t + k`; `R` is the length of the longest group. Entries with `t + k >= T` are ignored.
    """
    frames, places = changed.shape[1:]
    reference = best_references(costs(changed.sum(2, dtype=np.int64), places))
    frame = np.arange(frames)
    apart = np.abs(frame - reference)
    computed = np.ones((frames, places), dtype=np.bool_)
    served = np.flatnonzero(apart)
    computed[served] = changed[apart[served] - 1, np.minimum(frame, reference)[served]]
    own = computed.sum(1) > OWN_SHARE * places
    computed[own], reference = True, np.where(own, frame, reference)
    found = Plan(computed, reference)
    return Plan.everything(frames, places) if found.share > STOCK_SHARE else found


def costs(counts: Ints, places: int) -> Ints:
    """Count the places to compute of each frame, for each possible reference.

    Args:
        counts: `[R - 1, T]` int64: at `(k - 1, t)` the number of places that differ between frames `t` and
            `t + k`.
        places: number of places of a frame.

    Returns:
        `[T, 2R - 1]` int64: at `(t, j)` the number of places of frame `t` that are computed if frame `t + j -
        (R - 1)` is its reference; without meaning where there is no such frame.
    """
    steps, frames = counts.shape
    cost = np.full((frames, 2 * steps + 1), places, dtype=np.int64)
    for k in range(1, min(steps, frames - 1) + 1):
        cost[k:, steps - k] = counts[k - 1, : frames - k]  # the reference is k frames before
        cost[: frames - k, steps + k] = counts[k - 1, : frames - k]
    return np.where(cost > OWN_SHARE * places, places, cost)


def best_references(cost: Ints) -> Ints:
    """Find the reference of each frame, `[T]` int64, with which the fewest places are computed.

    Dynamic programming finds the exact minimum: `best[e] = min over L of best[e - L] + min over r of the cost
    of frames e - L .. e - 1 with reference r`, with `r` one of these frames. Ties go to the shortest group
    and its earliest reference.

    Args:
        cost: `[T, 2R - 1]`, from `costs`.
    """
    frames, reach = cost.shape[0], (cost.shape[1] + 1) // 2
    start = np.arange(frames)[:, None, None]
    member, reference = np.arange(reach)[:, None], np.arange(reach)[None]
    single = cost[np.minimum(start + member, frames - 1), reference - member + reach - 1]
    # at (s, L - 1, r): cost of a group of L frames from s on, with its r-th frame as reference
    total = single.cumsum(1)
    total[:, reference > member] = np.iinfo(np.int64).max  # the group has no r-th frame
    weight, chosen = total.min(2), total.argmin(2)
    best = np.zeros(frames + 1, dtype=np.int64)
    length = np.zeros(frames + 1, dtype=np.int64)
    for end in range(1, frames + 1):
        lengths = np.arange(1, min(reach, end) + 1)
        candidates = best[end - lengths] + weight[end - lengths, lengths - 1]
        shortest = int(candidates.argmin())
        best[end], length[end] = candidates[shortest], shortest + 1
    found = np.empty(frames, dtype=np.int64)
    end = frames
    while end > 0:
        first = end - int(length[end])
        found[first:end] = first + chosen[first, end - first - 1]
        end = first
    return found
