"""Tokens of a video between the vision tower and the language model, before and after merging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class VideoTokens:
    """One video's visual tokens, after the model's own projector and pooling.

    Attributes:
        features: `[T, N, D]`, the model's dtype: `T` frames of `N` tokens, row-major over `grid`.
        importance: `[T, N]` float32: attention that each token receives in the vision tower's last
            layer, averaged over heads and queries, pooled as the features are (HoliTom, section 3.2).
        grid: `(rows, columns)` of one frame, `rows * columns == N`.
        keys: `[T, N, d]`: keys of the vision tower's last layer, averaged over heads, pooled as the
            features are; None where the method needs none.
        shallow: `[T, N]` float32: importance in an early layer of the vision tower (layer 5, 0-based, of 26,
            in proportion in other towers); None where the method needs none, or where the tower merges
            patches or frames behind that layer.
        streams: `[T, N, E]`: further features of the same tokens (DeepStack), which merge as `features` do
            and enter no decision; None where the model has none.
        left: numbers of the frames that are left where the tower has merged whole frames, ascending, with
            frame 0; every other frame repeats the nearest of them before it. None: all frames are left.
        timed: whether tokens that are left keep their positions in the language model, one axis of which is
            time. A token that is averaged over time then stands at the time of its first frame alone.
    """

    features: Tensor
    importance: Tensor
    grid: tuple[int, int]
    keys: Tensor | None = None
    streams: Tensor | None = None
    shallow: Tensor | None = None
    left: tuple[int, ...] | None = None
    timed: bool = False

    @property
    def carried(self) -> Tensor:
        """Features and streams side by side, `[T * N, D + E]`, which are averaged when tokens merge."""
        flat = self.features.flatten(0, 1)
        return flat if self.streams is None else torch.cat([flat, self.streams.flatten(0, 1)], dim=-1)


@dataclass(frozen=True)
class Origins:
    """For each token of a video, the merged token that it is part of.

    Tokens are named by their place `t * N + n` in the video, which does not depend on the order in which a
    model is sent merged tokens.

    Attributes:
        via: `[T, N]` int64: the place at which each token was averaged over time, before any merging in
            space; its own place if it was not.
        into: `[T, N]` int64: the place of the merged token that each token is part of; -1: it was dropped.
    """

    via: Tensor
    into: Tensor


@dataclass(frozen=True)
class MergedTokens:
    """The tokens that one video sends into the language model, in the order they are sent.

    Attributes:
        features: `[M, D]`, the dtype of the video's features.
        frame: `[M]` int64: the frame that each token is sent with (for a merged token, its first frame).
        position: `[M]` int64: its position `0..N-1` in that frame's grid.
        size: `[M]` int64: number of the `T * N` tokens that each stands for (1: kept as it was).
        segments: first and last frame (inclusive) of each temporal segment; one `(t, t)` for each frame where
            the method has no segments.
        stages: token counts after each stage, in order, e.g. `{"temporal": 4210, "spatial": 628}`.
        streams: `[M, E]`: the video's `streams`, merged as `features` are; None where it has none.
        origins: computes the origins of all tokens of the video when it is called; None where the method
            does not record them.
    """

    features: Tensor
    frame: Tensor
    position: Tensor
    size: Tensor
    segments: list[tuple[int, int]]
    stages: dict[str, int]
    streams: Tensor | None = None
    origins: Callable[[], Origins] | None = field(default=None, repr=False, compare=False)
