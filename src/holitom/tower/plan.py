"""Which places of which frames are computed, and which frame stands in at the others.

A video is cut into groups of successive frames. One frame of each group, its reference, is computed whole; of
the others, the places that differ from the reference. Groups and references are those that leave the fewest
places to compute. All of this is host arithmetic on counts; nothing here knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

OWN_SHARE = 0.7
"""A frame of which a larger share differs from its reference is computed whole: it is its own reference."""

STOCK_SHARE = 0.9
"""A video of which a larger share would be computed is computed whole: too little would be saved."""


@dataclass(frozen=True)
class Plan:
    """What is computed of one video.

    Attributes:
        computed: `[T, S]` bool: the places that are computed.
        reference: `[T]` int64: the frame that stands in at the other places; the frame itself where it is
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
        """Whether everything is computed."""
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
    """The plan that computes the fewest places of a video.

    Args:
        changed: `[R - 1, T, S]` bool: at `(k - 1, t, s)`, whether place `s` differs between frames `t` and
            `t + k`; `R` is the length of the longest group. What lies behind the last frame is not looked at.
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
    """What each frame costs under each reference within reach.

    Args:
        counts: `[R - 1, T]` int64: how many places differ between frames `t` and `t + k`, at `(k - 1, t)`.
        places: of one frame.

    Returns:
        `[T, 2R - 1]` int64: at `(t, j)` the places of frame `t` that are computed if frame `t + j - (R - 1)`
        is its reference; meaningless where there is no such frame.
    """
    steps, frames = counts.shape
    cost = np.full((frames, 2 * steps + 1), places, dtype=np.int64)
    for k in range(1, min(steps, frames - 1) + 1):
        cost[k:, steps - k] = counts[k - 1, : frames - k]  # the reference comes first
        cost[: frames - k, steps + k] = counts[k - 1, : frames - k]
    return np.where(cost > OWN_SHARE * places, places, cost)


def best_references(cost: Ints) -> Ints:
    """The reference of each frame under which the least is computed, `[T]` int64.

    `best[e] = min over L of best[e - L] + min over r of the cost of frames e - L .. e - 1 under r`, with `r`
    one of these frames; of equals the shortest group and its earliest reference. Exact.

    Args:
        cost: `[T, 2R - 1]`, from `costs`.
    """
    frames, reach = cost.shape[0], (cost.shape[1] + 1) // 2
    start = np.arange(frames)[:, None, None]
    member, reference = np.arange(reach)[:, None], np.arange(reach)[None]
    single = cost[np.minimum(start + member, frames - 1), reference - member + reach - 1]
    total = single.cumsum(1)  # at (s, L - 1, r): a group of L frames from s on, under its frame r
    total[:, reference > member] = np.iinfo(np.int64).max  # no frame of the group
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
