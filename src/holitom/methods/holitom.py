"""HoliTom: holistic token merging (arXiv 2505.21334, NeurIPS 2025).

The outer stage, before the language model, cuts the video into the segments that let it prune the most
tokens, averages static tokens over each segment, and keeps the most important tokens of each frame. The inner
stage, inside the language model, merges half of the visual tokens into the other half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from holitom.contract import InnerStage
from holitom.errors import SettingsError
from holitom.methods.base import Method, choose, require, require_layer
from holitom.methods.parts import Part, assemble, averaged_at, clustered, unchanged
from holitom.ops.budgets import exact_total, kept_share, largest_remainder
from holitom.ops.host import to_device
from holitom.ops.merging import merge_into_most_similar, most_attended
from holitom.ops.ragged import Sizes, compact, run_means, top_mask
from holitom.ops.segmentation import (
    Counts,
    best_segments,
    neighbour_similarity,
    static_counts,
    static_until,
)
from holitom.ops.similarity import above
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class HoliTom(Method):
    """HoliTom with the paper's defaults.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1]. It is an upper
            bound, up to rounding: static tokens are averaged over time at any ratio, so 24.5% of the bundled
            demo video are sent at 0.5 and at 1 alike. With `budget="exact"` it is the share itself; with
            `similarity_threshold=1` no token is averaged.
        similarity_threshold: cosine similarity above which a position counts as static from one frame
            to the next, in [-1, 1]; at 1 none is. None: 0.65 for retain ratios up to 0.10, else 0.8.
        center_weight: weight of a cluster's centre in the merged token, in [0, 1].
        knn: neighbours that a cluster density averages over.
        contextual_ratio: share of each frame's budget for cluster centres rather than for the most important
            tokens, in [0, 1].
        inner_layer: layer of the language model before which the inner stage acts (0-based, from 1 on).
            None: 18 of 28, 60 of 80, else in proportion, `round(layers * 18 / 28)`.
        inner_drop: share of the visual tokens merged away there, in [0, 1). None or 0: no inner stage.
        budget: "ratio": the paper's rounding for every segment and frame, so that the count depends on the
            video. Where that rounds to no token at all (a short still video), one token of the largest static
            group is sent (a detail of our own). "exact": always `merged_count(T, N)` tokens, so that an
            engine knows the count beforehand.
        inner_attention: attention that ranks tokens in the inner stage. "before": of the layer before
            `inner_layer`, as in the paper. "own": of `inner_layer` itself, computed before it runs
            (PyramidDrop, arXiv 2410.17247), so that no token is dropped that this layer would attend to.

    Raises:
        SettingsError: a hyper-parameter is out of its range.
    """

    similarity_threshold: float | None = None
    center_weight: float = 0.6
    knn: int = 7
    contextual_ratio: float = 0.0
    inner_layer: int | None = None
    inner_drop: float | None = 0.5
    budget: Literal["ratio", "exact"] = "ratio"
    inner_attention: Literal["before", "own"] = "before"

    needs_importance: ClassVar[bool] = True
    usual: ClassVar[dict[str, str]] = {"inner_layer": "18 of 28"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_similarities("similarity_threshold")
        self._check_shares("center_weight", "contextual_ratio")
        self._check_counts("knn")
        self._check_layers("inner_layer")
        if self.inner_drop is not None:
            require("inner_drop", self.inner_drop, "a number in [0, 1)", lambda v: 0 <= v < 1)
        choose("budget", self.budget, "ratio", "exact")
        choose("inner_attention", self.inner_attention, "before", "own")

    def in_force(self) -> dict[str, object]:
        return super().in_force() | {"similarity_threshold": self.threshold}

    @property
    def threshold(self) -> float:
        """`similarity_threshold`, or its default for the retain ratio."""
        if self.similarity_threshold is not None:
            return self.similarity_threshold
        return 0.65 if self.retain_ratio <= 0.10 else 0.8

    @property
    def merges_inside(self) -> bool:
        return bool(self.inner_drop)

    def without_inner(self) -> HoliTom:
        """The method with `inner_drop=None`, which the paper calls "w/o M"."""
        return replace(self, inner_drop=None)

    def merged_count(self, frames: int, tokens: int) -> int:
        """Number of tokens that `merge` returns for `frames` of `tokens` each, whatever they show.

        Raises:
            SettingsError: the budget is not "exact", so the count depends on what the video shows.
        """
        if self.budget != "exact":
            raise SettingsError(f'merged_count needs budget="exact", got budget={self.budget!r}')
        return exact_total(self.retain_ratio, frames, tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        """Merge one video's tokens by stages 1 to 5, with one device synchronisation for any length."""
        frames, tokens, _ = video.features.shape

        # Stage 1: cut where the most tokens can be pruned over time.
        until = static_until(above(neighbour_similarity(video.features), self.threshold))
        counts = static_counts(until)
        segments, pruned = best_segments(counts)

        # Stage 2: budgets of segments and frames. The host knows every size from here on.
        plan = self._plan(segments, counts, tokens)
        opens, closes, shows, important, contextual = plan.per_frame(until.device)

        # Stages 3 and 4: static tokens once per segment, dynamic tokens in every frame.
        static = until[opens[:, 0]] >= closes  # [T, N]
        chosen = top_mask(video.importance, important, ~static)
        unmerged = self._unmerged(video, static & (shows == 0), plan) if plan.unmerged else None
        parts = [self._important(chosen if unmerged is None else chosen | unmerged, plan)]
        if plan.centers.any():
            parts.insert(0, self._static(video, static & (shows > 0), unmerged, plan))
        if plan.contextual.any():
            parts.append(self._contextual(video, ~(static | chosen) & (contextual > 0), plan))

        # Stage 5: order. A segment's static tokens come first, then each frame's important and contextual
        # ones.
        stages = {"temporal": frames * tokens - pruned + plan.unmerged}
        return assemble(
            video, parts, segments=segments, stages=stages, via=lambda: averaged_at(opens, static, unmerged)
        )

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        """Stage 6, one inner stage at `inner_layer`.

        Raises:
            SettingsError: the model has no such layer.
        """
        if not self.inner_drop:
            return ()
        layer = self.inner_layer
        if layer is None:
            layer = _PUBLISHED_LAYERS.get(num_layers, round(num_layers * 18 / 28))
        require_layer(layer, num_layers)
        return (MergeInside(layer, self.inner_drop, self.inner_attention == "own"),)

    def _plan(self, segments: list[tuple[int, int]], counts: Counts, tokens: int) -> Plan:
        """Budgets of stages 2 and 4, in float64 and rounded half to even, as the paper's code does."""
        first, last = np.array(segments, dtype=np.int64).T
        length = last - first + 1
        static = np.where(length > 1, counts[first, last], 0)
        dynamic = (tokens - static).repeat(length)
        total, left = len(dynamic) * tokens, int(static.sum() + dynamic.sum())
        if self.budget == "exact":
            count = self.merged_count(len(dynamic), tokens)
            shares = largest_remainder(np.concatenate([static, dynamic]), min(count, left))
            centers, budget = np.split(shares, [len(static)])
            unmerged = max(0, count - left)
        else:
            ratio = effective_ratio(self.retain_ratio, total, total - left)
            centers, budget = np.rint(static * ratio), np.ceil(dynamic * ratio)
            if not centers.any() and not budget.any():
                centers = largest_remainder(static, 1)
            unmerged = 0
        important = np.rint(budget * (1 - self.contextual_ratio))
        return Plan(
            first=first,
            last=last,
            length=length,
            static=static,
            centers=centers.astype(np.int64),
            dynamic=dynamic,
            important=important.astype(np.int64),
            contextual=(budget - important).astype(np.int64),
            unmerged=unmerged,
        )

    def _unmerged(self, video: VideoTokens, repeats: Tensor, plan: Plan) -> Tensor:
        """Choose the most important repeats, which fill an exact budget and enter no average (`[T, N]`)."""
        score, offered = video.importance.view(1, -1), repeats.view(1, -1)
        return top_mask(score, plan.unmerged, offered).view_as(repeats)

    def _important(self, chosen: Tensor, plan: Plan) -> Part:
        """Stage 4 for dynamic tokens: keep the most important ones of each frame as they are."""
        at = compact(chosen, int(plan.important.sum()) + plan.unmerged)
        return unchanged(at)

    def _contextual(self, video: VideoTokens, rest: Tensor, plan: Plan) -> Part:
        """Stage 4 for dynamic tokens: cluster the others of each frame (of frames with a contextual
        budget)."""
        budgeted = plan.contextual > 0
        sizes = (plan.dynamic - plan.important)[budgeted]
        at = compact(rest, int(sizes.sum()))
        return self._clustered(video)(video.carried[at], at, sizes, plan.contextual[budgeted])

    def _static(self, video: VideoTokens, heads: Tensor, unmerged: Tensor | None, plan: Plan) -> Part:
        """Stages 3 and 4 for static tokens: average them over each segment, then cluster the averages."""
        budgeted = plan.centers > 0  # static tokens of other segments are dropped, so they need no average
        sizes = plan.static[budgeted]
        lengths = plan.length[budgeted].repeat(sizes)
        at = compact(heads, len(lengths))  # in the segments' first frames
        means, averaged = run_means(
            video.carried,
            at,
            lengths,
            stride=video.features.shape[1],
            skip=None if unmerged is None else unmerged.flatten(),
            skipped=plan.unmerged,
        )
        return self._clustered(video)(means, at, sizes, plan.centers[budgeted], standing_for=averaged)

    def _clustered(self, video: VideoTokens) -> Callable[..., Part]:
        """`clustered` with the method's settings, for tokens of `video`."""
        width = video.features.shape[-1]
        return partial(clustered, knn=self.knn, center_weight=self.center_weight, width=width)


@dataclass(frozen=True)
class MergeInside:
    """Stage 6: keep the most attended visual tokens and merge each other one into the most similar of them.

    Attributes:
        layer: layer (0-based) whose incoming hidden states the stage acts on.
        drop: share of the visual tokens merged away.
        own_attention: whether the attention that ranks is that of `layer` itself; else of the layer before.
    """

    layer: int
    drop: float
    own_attention: bool = False

    def keep(self, visual: int) -> int:
        """Number of `visual` tokens that stay: `round(V * (1 - drop))`, at least one."""
        return kept_share(1 - self.drop, visual)

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Return kept indices `[K]`, ascending, and merged features `[K, D]` of `hidden` `[V, D]`."""
        kept, dropped = most_attended(attention, self.keep(len(hidden)))
        return kept, merge_into_most_similar(hidden, kept, dropped)


def effective_ratio(retain_ratio: float, total: int, pruned: int) -> float:
    """Share of the tokens left by temporal merging that is `retain_ratio` of all tokens (stage 2)."""
    return min(1, retain_ratio / ((total - pruned) / total))


@dataclass(frozen=True)
class Plan:
    """Budgets of each segment and each frame, on the host.

    Attributes:
        first, last, length: `[S]`: first and last frame of each segment, and its number of frames.
        static: `[S]`: number of static positions.
        centers: `[S]`: number of cluster centres that the static positions merge into.
        dynamic: `[T]`: number of tokens of each frame that are not static.
        important: `[T]`: number of dynamic tokens kept for their importance.
        contextual: `[T]`: number of cluster centres of the other dynamic tokens.
        unmerged: number of static tokens of the whole video that are kept and enter no average.
    """

    first: Sizes
    last: Sizes
    length: Sizes
    static: Sizes
    centers: Sizes
    dynamic: Sizes
    important: Sizes
    contextual: Sizes
    unmerged: int

    def per_frame(self, device: torch.device) -> tuple[Tensor, ...]:
        """Copy budgets and segments of each frame to the device, `[T, 1]` int64 each, in one copy.

        Returns:
            The first frame of each frame's segment; the frame until which a position must be static there
            (the number of frames, which no position reaches, in a one-frame segment); whether the frame is
            the one that static tokens of its segment are sent with; the important and the contextual budget.
        """
        frames = len(self.dynamic)
        opens = self.first.repeat(self.length)
        closes = np.where(self.length > 1, self.last, frames).repeat(self.length)
        shows = (opens == np.arange(frames)) & (self.centers > 0).repeat(self.length)
        table = np.stack([opens, closes, shows, self.important, self.contextual])
        return to_device(table[:, :, None], device).unbind()


# Layers that the paper states, by number of layers; other depths take the 7B model's in proportion.
_PUBLISHED_LAYERS = {28: 18, 80: 60}
