"""Operations of a model's vision tower on a benchmark's videos, counted from shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from holitom.costs import VisionCount, count_vision, skeleton
from holitom.methods.base import Method
from holitom.models import adapter_for
from holitom.models.base import Adapter


@dataclass
class TowerCost:
    """Counted operations (two for each multiply-add) of vision tower and projector.

    Attributes:
        model: a name that `costs.skeleton` takes.
        side: width and height of the frames in pixels.
    """

    model: str
    side: int

    @cached_property
    def _adapter(self) -> Adapter:
        return adapter_for(skeleton(self.model))

    def __post_init__(self) -> None:
        self._counts: dict[int, VisionCount] = {}

    def operations(self, frames: int, method: Method | None) -> int | None:
        """Operations of encoding a video of `frames` frames, with what `method` reads of the tower.

        None where `method` changes what the tower computes (reuse, frames merged in it), since that depends
        on the video.
        """
        if method is not None and (method.reuse or method.frame_merging is not None):
            return None
        if frames not in self._counts:
            self._counts[frames] = count_vision(self._adapter, frames, self.side, self.side)
        return self._counts[frames].with_reading(method or Method(retain_ratio=1))
