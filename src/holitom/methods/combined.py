"""The outer stage of one method with the inner stages of another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from holitom.methods.base import InnerStage, Method
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class Combined(Method):
    """What `outer.with_inner(inside)` gives: `outer` before the language model, `inside` in it.

    Attributes:
        outer: its `merge` is used, its own inner stages are not.
        inside: its inner stages are used, its `merge` is not.
    """

    retain_ratio: float = field(init=False)
    positions: Literal["packed", "own"] = field(init=False, kw_only=True)
    outer: Method
    inside: Method

    def __post_init__(self) -> None:
        object.__setattr__(self, "retain_ratio", self.outer.retain_ratio)
        object.__setattr__(self, "positions", self.outer.positions)
        super().__post_init__()

    @property
    def needs_importance(self) -> bool:  # type: ignore[override]  # the one method whose needs are another's
        return self.outer.needs_importance

    @property
    def needs_keys(self) -> bool:  # type: ignore[override]
        return self.outer.needs_keys

    @property
    def count_varies(self) -> bool:  # type: ignore[override]
        return self.outer.count_varies

    def merged_count(self, frames: int, tokens: int) -> int:
        return self.outer.merged_count(frames, tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        return self.outer.merge(video)

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        return self.inside.inner(num_layers)
