"""Choose which frames of a file to read by what changes in it, from thumbnails of many of its frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from holitom.video.change import chosen, thumbnail
from holitom.video.upright import Array, Picture, Resize, Resized

KEPT_BYTES = 512 * 2**20
"""Largest size of the candidates that are kept until frames are chosen among them."""


class Choice(NamedTuple):
    """Frames chosen among candidates.

    Attributes:
        numbers: their numbers, rising.
        kept: the first of them; the others have to be decoded again.
    """

    numbers: list[int]
    kept: list[Picture | Resized]


def choose_by_change(candidates: Iterable[Picture], count: int, resize: Resize | None = None) -> Choice:
    """Choose the `count` of the `candidates` that show the most.

    Memory holds a thumbnail of each candidate, and the first candidates up to `KEPT_BYTES`: as the decoder
    gave them, or resized by `resize` where that is smaller.
    """
    numbers: list[int] = []
    thumbnails: list[Array] = []
    kept: list[Picture | Resized] = []
    size = 0
    for picture in candidates:
        image = picture.image
        if resize is not None and not kept and resize(image, picture.number).nbytes >= picture.size:
            resize = None
        numbers.append(picture.number)
        thumbnails.append(thumbnail(image))
        if size <= KEPT_BYTES:
            if resize is None:
                kept.append(picture)
            else:
                kept.append(Resized(picture.number, picture.pts, resize(image, picture.number)))
            size += kept[-1].size
    if size > KEPT_BYTES:
        kept.pop()
    indices = chosen(np.stack(thumbnails), count)
    return Choice([numbers[i] for i in indices], [kept[i] for i in indices if i < len(kept)])
