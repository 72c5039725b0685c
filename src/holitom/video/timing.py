"""Times at which frames are shown, from the file's timestamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from holitom.video.packets import Packets


@dataclass(frozen=True)
class Timeline:
    """Times of all frames of a file.

    Attributes:
        seconds: `[total]` float64: time of each frame in seconds from the first frame.
        duration: seconds from the first frame to the end of the last.
        rate: frames per second that the file states if its frames keep to it, else their mean rate.
    """

    seconds: NDArray[np.float64]
    duration: float
    rate: float


def timeline(packets: Packets, stated: Fraction | None, guessed: Fraction | None) -> Timeline:
    """Compute the times of all frames.

    Args:
        packets: packets of the file.
        stated: frames per second that the file states; None where it states none.
        guessed: rate that gives the times if timestamps are missing or jump back.
    """
    shown = packets.stamps
    if not packets.timed:
        rate = float(guessed or 1)
        return Timeline(np.arange(len(shown)) / rate, len(shown) / rate, rate)
    return timed(shown, packets.duration[packets.display], packets.tick, stated)


def timed(
    pts: NDArray[np.int64], durations: NDArray[np.int64], tick: Fraction, stated: Fraction | None
) -> Timeline:
    """Compute the times of frames from their timestamps.

    Args:
        pts: `[total]` timestamps in ticks, rising.
        durations: `[total]` in ticks; 0 where unknown.
        tick: seconds in a tick.
        stated: frames per second that the file states; None where it states none.
    """
    total = len(pts)
    seconds = in_seconds(pts - pts[0], tick)
    last = float(durations[-1] * tick)
    if stated and np.abs(seconds - np.arange(total) / float(stated)).max() <= 0.5 / stated + tick:
        return Timeline(seconds, total / float(stated), float(stated))
    if total > 1 and seconds[-1] > 0:
        mean = seconds[-1] / (total - 1)
        return Timeline(seconds, seconds[-1] + (last or mean), float(1 / mean))
    rate = 1 / last if last else float(stated or 1)
    return Timeline(seconds, total / rate, rate)


def in_seconds(ticks: NDArray[np.int64], tick: Fraction) -> NDArray[np.float64]:
    """Convert timestamps to seconds, each the float nearest to the true quotient."""
    return ticks * tick.numerator / tick.denominator


def settled(seen: Sequence[int | None], packets: Packets, known: Timeline) -> NDArray[np.float64]:
    """Compute the times of decoded frames, in seconds from the first.

    Args:
        seen: timestamp of each frame from the decoder, from the first frame on.
        packets: packets of the file.
        known: times by its packets.
    """
    stamped = [pts for pts in seen if pts is not None]
    pts = np.array(stamped, np.int64)
    if len(stamped) == len(seen) and (np.diff(pts) > 0).all():
        return in_seconds(pts - pts[0], packets.tick)
    if packets.timed and len(seen) <= len(known.seconds):  # the container's timestamps are in decoding order
        return known.seconds[: len(seen)]
    return _mended(seen, packets.tick, Fraction(1 / known.rate))


def _mended(seen: Sequence[int | None], tick: Fraction, interval: Fraction) -> NDArray[np.float64]:
    """Times where a frame whose timestamp is missing or does not rise is one interval behind the last."""
    times: list[Fraction] = []
    shift = Fraction(0)
    for pts in seen:
        follows = times[-1] + interval if times else Fraction(0)
        stamp = None if pts is None else pts * tick + shift
        if stamp is not None and (not times or stamp <= times[-1]):
            shift += follows - stamp
            stamp = follows
        times.append(follows if stamp is None else stamp)
    return np.array([float(time) for time in times])
