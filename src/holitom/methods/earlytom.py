"""EarlyTom (arXiv 2605.30010, CVPR 2026): merge whole frames inside the vision tower, then select tokens.

This file is stage II, behind the tower; it sets up stage I, which is `holitom.tower.merged_frames`. It is an
independent implementation; the authors' code is Apache-2.0 (viridisGreen/EarlyTom).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from holitom.contract import FrameMerging, InnerStage, Reuse
from holitom.errors import SettingsError
from holitom.methods.base import Method, choose, require
from holitom.methods.holitom import HoliTom
from holitom.methods.parts import assemble, unchanged
from holitom.ops.budgets import exact_total, largest_remainder
from holitom.ops.frame_groups import Groups, frame_groups, lagged_similarity
from holitom.ops.host import to_device
from holitom.ops.ragged import Sizes, compact, rankable, top_mask
from holitom.tokens import MergedTokens, Origins, VideoTokens


@dataclass(frozen=True)
class EarlyTom(Method):
    """Keep the most important tokens of a group's first and last frame, and evenly spread ones of those
    between.

    1. Groups are stretches of frames similar to their first one. With `m` the mean cosine similarity of a
       frame's tokens with those at the same positions of the group's first frame, a running similarity
       `e <- momentum * m + (1 - momentum) * e` starts at 1. A group ends before the frame at which `e` falls
       below `segment_threshold`, and before it would hold `max_frames` frames.
    2. The first and the last frame of a group keep their `ceil(r N)` most important tokens by `a[t,n]`. The
       frames between are cut into `max(1, round(r N))` windows of consecutive positions, the first windows
       one longer, and keep the most important token of each. Kept tokens stay as they are.
    3. HoliTom's inner stage acts inside the language model; by default it merges half of the visual tokens
       before layer 18 of 28.

    With `in_tower` whole frames merge inside the vision tower, behind three of its layers, by the same
    groups (`ops.frame_groups.merge_frames`); this is the part that saves time in the paper. Steps 1 and 2
    then act on the `T'` frames that are left of `T`, with `r' = min(1, r T / T')`, and importance is that of
    the last of these layers. It needs a tower whose frames are a batch (SigLIP, CLIP, InternViT, SmolVLM's);
    other towers refuse it. It is off by default, so that the method is the same for every family.

    The authors set threshold and layers for every benchmark and ratio (0.3 to 0.8); one value for all is our
    choice. Their code compares with the group's first frame, their paper with the frame before; this follows
    the code. Two faults of the code are not copied: it loses the last middle frame of every group of four or
    more, and all but the first frame of a group if frames have newlines.

    It takes one device synchronisation, and one more for each video behind each of the tower's layers. Groups
    take one sequential step on the host for each frame. Each frame is compared with the `max_frames - 2` next
    ones, position by position.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        segment_threshold: similarity below which a group ends, in [-1, 1].
        max_frames: every group holds fewer frames than this, from 2 up.
        momentum: weight of the newest frame in the running similarity, in [0, 1].
        budget: "ratio": the paper's rounding for every frame, so that the count depends on the groups.
            "exact": `merged_count(T, N)` tokens, split evenly among frames.
        frames_before: number of frames before a stage I elsewhere merged some of them: `r` is a share of
            their tokens. None: the number of frames of the video.
        in_tower: whether whole frames merge inside the vision tower. The number of tokens then depends on the
            video with either budget. It excludes `reuse` and `tower_batch`.
        tower_layers: layers of the tower (0-based) behind which frames merge, rising. None: 10, 21 and 23 of
            26, in proportion in other towers.
        inner_layer: layer of the inner stage, as in `HoliTom`.
        inner_drop: share of the visual tokens merged away there, as in `HoliTom`; None or 0: no inner stage.
    """

    segment_threshold: float = 0.6
    max_frames: int = 6
    momentum: float = 0.9
    budget: Literal["ratio", "exact"] = "ratio"
    frames_before: int | None = None
    in_tower: bool = False
    tower_layers: tuple[int, ...] | None = None
    inner_layer: int | None = None
    inner_drop: float | None = 0.5

    needs_importance: ClassVar[bool] = True
    usual: ClassVar[dict[str, str]] = {
        "inner_layer": "18 of 28",
        "frames_before": "the video's",
        "tower_layers": "10, 21, 23 of 26",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_similarities("segment_threshold")
        self._check_counts("max_frames", least=2)
        self._check_counts("frames_before")
        self._check_shares("momentum")
        choose("budget", self.budget, "ratio", "exact")
        if not isinstance(self.in_tower, bool):
            raise SettingsError(f"in_tower must be True or False, got {self.in_tower!r}")
        self._check_tower()
        self._inside()

    @property
    def count_varies(self) -> bool:  # type: ignore[override]  # a class variable elsewhere
        return self.budget != "exact" or self.in_tower

    def merged_count(self, frames: int, tokens: int) -> int:
        """Number of tokens that `merge` returns.

        Raises:
            SettingsError: the budget is not "exact", or frames merge inside the tower, so the count depends
                on what the video shows.
        """
        if self.count_varies:
            return super().merged_count(frames, tokens)
        return exact_total(self._share(frames), frames, tokens)

    def _share(self, frames: int) -> float:
        """`r'`: share of the tokens of `frames` frames that is `retain_ratio` of the tokens before stage
        I."""
        if self.frames_before is None:
            return self.retain_ratio
        return min(1.0, self.retain_ratio * self.frames_before / frames)

    def merge(self, video: VideoTokens) -> MergedTokens:
        if video.left is not None:
            whole = replace(self, frames_before=len(video.features), in_tower=False)
            return of_frames_left(video, video.left, whole.merge)
        frames, tokens, _ = video.features.shape
        groups = self.groups(video.features)
        windowed, budget = self._plan(groups, frames, tokens)
        windows, plan = to_device(np.stack([windowed, budget])[:, :, None], video.features.device)

        # With tokens sorted by window, then by importance, a window's best token is its first.
        score = rankable(video.importance)
        order = score.argsort(dim=1, descending=True, stable=True)
        window = window_of(tokens, plan)
        order = order.gather(1, window.gather(1, order).argsort(dim=1, stable=True))
        sorted_window = window.gather(1, order)
        opens = torch.ones_like(order, dtype=torch.bool)
        opens[:, 1:] = sorted_window.diff(dim=1) != 0
        best = torch.zeros_like(opens).scatter(1, order, opens & (plan > 0))

        kept = torch.where(windows > 0, best, top_mask(score, plan))
        at = compact(kept, int(budget.sum()))
        return assemble(video, [unchanged(at)], segments=groups)

    def groups(self, features: Tensor) -> Groups:
        """Step 1: first and last frame (inclusive) of each group, from features `[T, N, D]`."""
        lags = min(self.max_frames - 2, len(features) - 1)
        similarity = lagged_similarity(features, lags)
        return frame_groups(similarity, self.segment_threshold, self.max_frames, self.momentum)

    @property
    def frame_merging(self) -> FrameMerging | None:
        if not self.in_tower:
            return None
        return FrameMerging(self.tower_layers, self.segment_threshold, self.max_frames, self.momentum)

    def _check_tower(self) -> None:
        layers = self.tower_layers
        if layers is not None:
            if not isinstance(layers, tuple) or not layers:
                raise SettingsError(f"tower_layers must be a tuple of rising layers, got {layers!r}")
            for layer in layers:
                require("tower_layers", layer, "layers from 0 up", lambda v: v >= 0, whole=True)
            if list(layers) != sorted(set(layers)):
                raise SettingsError(f"tower_layers must be in rising order, got {layers!r}")
        if self.in_tower and Reuse.of(self.reuse):
            raise SettingsError(
                "in_tower merges the frames that reuse would compare; set in_tower=False or reuse=False"
            )
        if self.in_tower and self.tower_batch is not None:
            raise SettingsError(
                "in_tower merges frames of the whole video, which tower_batch would part; take one of them "
                "(in_tower=False or tower_batch=None)"
            )

    @property
    def merges_inside(self) -> bool:
        return bool(self.inner_drop)

    def without_inner(self) -> EarlyTom:
        """The method with `inner_drop=None`."""
        return replace(self, inner_drop=None)

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        """HoliTom's inner stage (step 3).

        Raises:
            SettingsError: the model has no such layer.
        """
        return self._inside().inner(num_layers)

    def _inside(self) -> HoliTom:
        return HoliTom(inner_layer=self.inner_layer, inner_drop=self.inner_drop)

    def _plan(self, groups: Groups, frames: int, tokens: int) -> tuple[Sizes, Sizes]:
        """Decide whether a frame is cut into windows, and how many tokens it keeps (`[T]` each)."""
        windowed = np.ones(frames, dtype=np.int64)
        windowed[np.array(groups).ravel()] = 0
        if self.budget == "exact":
            total = self.merged_count(frames, tokens)
            return windowed, largest_remainder(np.full(frames, tokens), total)
        share = round(self._share(frames) * tokens, 9)  # 0.07 * 100 is a little above 7
        return windowed, np.where(windowed > 0, max(1, round(share)), ceil(share)).astype(np.int64)


def of_frames_left(
    video: VideoTokens, left: tuple[int, ...], merge: Callable[[VideoTokens], MergedTokens]
) -> MergedTokens:
    """Apply `merge` to the frames that the tower has left, and give the result in the numbers of all frames.

    `size` counts a token once for every frame that the tower merged into its frame.

    Args:
        video: tokens of all frames, in which a merged frame repeats the one that it is part of.
        left: numbers of the frames that are left, ascending.
        merge: an outer stage.
    """
    frames, tokens, _ = video.features.shape
    starts = np.array(left)
    run = np.diff([*left, frames])
    owner = np.repeat(np.arange(len(left)), run)
    device = video.features.device
    own, at, stands = to_device(owner, device), to_device(starts, device), to_device(run, device)

    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.index_select(0, at)

    merged = merge(
        VideoTokens(
            features=video.features.index_select(0, at),
            importance=video.importance.index_select(0, at),
            grid=video.grid,
            keys=of(video.keys),
            streams=of(video.streams),
            shallow=of(video.shallow),
            timed=video.timed,
        )
    )
    found = merged.origins

    def origins() -> Origins:
        assert found is not None
        known = found()

        def of_all(place: Tensor) -> Tensor:
            """Convert places among the frames left to places among all frames, for the tokens of all
            frames."""
            kept = place.clamp_min(0)
            return torch.where(place < 0, place, at[kept // tokens] * tokens + kept % tokens)[own]

        return Origins(of_all(known.via), of_all(known.into))

    return replace(
        merged,
        frame=at[merged.frame],
        size=merged.size * stands[merged.frame],
        segments=[(left[first], int(starts[last] + run[last]) - 1) for first, last in merged.segments],
        stages={"tower": len(left) * tokens, **merged.stages},
        origins=None if found is None else origins,
    )


def window_of(tokens: int, windows: Tensor) -> Tensor:
    """Divide positions into windows of consecutive ones, the first `tokens mod windows` windows one longer.

    Args:
        tokens: number of positions.
        windows: `[T, 1]` int64: number of windows in each row; 0 counts as 1.

    Returns:
        `[T, tokens]` int64: the window of each position.
    """
    windows = windows.clamp_min(1)
    place = torch.arange(tokens, device=windows.device)
    size, longer = tokens // windows, tokens % windows
    in_longer = longer * (size + 1)
    return torch.where(place < in_longer, place // (size + 1), longer + (place - in_longer) // size)
