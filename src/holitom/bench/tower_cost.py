"""Operations of a model's vision tower on the videos of MovingDigits-QA, counted from shapes."""

from __future__ import annotations

from functools import cache

from holitom.bench.moving_digits import SIDE
from holitom.costs import VisionCount, count_vision, skeleton
from holitom.methods.base import Method
from holitom.models import adapter_for


def tower_operations(model: str, frames: int, method: Method | None) -> int | None:
    """Count operations (two for each multiply-add) of vision tower and projector on a video.

    Args:
        model: a name that `costs.skeleton` takes.
        frames: number of frames.
        method: the method, whose reading of the tower is counted too; None: full tokens.

    Returns:
        None where `method` changes what the tower computes (reuse, frames merged in it), since that depends
        on the video.
    """
    if method is not None and (method.reuse or method.frame_merging is not None):
        return None
    return _counted(model, frames).with_reading(method or Method(retain_ratio=1))


@cache
def _counted(model: str, frames: int) -> VisionCount:
    return count_vision(adapter_for(skeleton(model)), frames, SIDE, SIDE)
