"""Choose which frames of a file to read by what changes in it, from thumbnails of many of its frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from holitom.video.change import chosen, thumbnail
from holitom.video.upright import Array, Picture

KEPT_BYTES = 256 * 2**20
"""Largest size of the decoded candidates that are kept until frames are chosen among them."""


class Choice(NamedTuple):
    """Frames chosen among candidates.

    Attributes:
        numbers: their numbers, rising.
        kept: the first of them, as decoded; the others have to be decoded again.
    """

    numbers: list[int]
    kept: list[Picture]


def choose_by_change(candidates: Iterable[Picture], count: int) -> Choice:
    """Choose the `count` of the `candidates` that show the most.

    Memory holds a thumbnail of each candidate, and the first candidates as the decoder gave them, up to
    `KEPT_BYTES`.
    """
    numbers: list[int] = []
    thumbnails: list[Array] = []
    kept: list[Picture] = []
    size = 0
    for picture in candidates:
        numbers.append(picture.number)
        thumbnails.append(thumbnail(picture.image))
        size += picture.size
        if size <= KEPT_BYTES:
            kept.append(picture)
    indices = chosen(np.stack(thumbnails), count)
    return Choice([numbers[i] for i in indices], [kept[i] for i in indices if i < len(kept)])
