"""FlashVID (arXiv 2602.08024, ICLR 2026): diverse tokens, trees over time, and dropping in the last
layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holitom.contract import InnerStage
from holitom.errors import SettingsError
from holitom.methods.base import Method, require, require_layer
from holitom.methods.fastv import DropInside
from holitom.methods.parts import Part, assemble, clustered, unchanged
from holitom.ops.budgets import exact_total, largest_remainder, largest_remainder_within
from holitom.ops.host import to_device, to_host
from holitom.ops.pairs import cosine_gram
from holitom.ops.ragged import Sizes, compact, gather_bags, rank_within, run_means
from holitom.ops.runs import frame_similarity
from holitom.ops.segmentation import cut_scenes, frame_means
from holitom.ops.similarity import above
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class FlashVID(Method):
    """Send more tokens than the budget into the language model, and drop some before its last layers.

    Before the language model a share `R = min(1, expansion * r)` of the tokens stays, evenly split among
    frames:

    1. Segments end as in FastVID: where the similarity of two frames is below `cut_threshold`, and at the
       `min_segments - 1` least similar pairs in any case.
    2. Of a frame's budget `b`, `ceil(diverse_ratio * b)` tokens are chosen one by one to be far apart, with
       the distance `a[t,i] e[t,i] (1 - cos(x[t,i], x[t,j]))` from candidate `i`. The first has the farthest
       nearest neighbour; each next one has the largest distance to its nearest chosen token. They stay as
       they are. The event relevance `e[t,i]` is the mean over the segment's frames `f` of `x[t,i] . mean over
       n of x[f,n]` (1 without `event_relevance`).
    3. Every other token links to the most cosine-similar token of the frame before that is not chosen, if the
       frame is in its segment and the similarity is above `link_threshold`. Of a segment with `l` frames and
       a budget of `B` at most the `l N - B` most similar links remain, so that the budget can be met. The
       tokens of each tree are averaged at its root.
    4. The rest of a segment's budget is split among its frames in proportion to their roots, and DPC-KNN
       clusters the roots of a frame into that many plain means. In total `max(1, round(R T N))` tokens are
       sent.

    At `inner_layer` those tokens stay that get the most attention from the last query in the layer before, so
    many that the mean over all layers is `r`: a share of 0.3 at layer 20 of 28.

    It takes two device synchronisations. The choices of step 2 are sequential, one loop for all frames at
    once of as many steps as a frame has diverse tokens. Steps 2 and 3 compare every token with all tokens of
    its frame and of the frame before, two products of `2 T N^2 D` = 8.8 GFLOP for 32 frames of 196 tokens,
    3584 wide (of the first, which is symmetric, 5/8 are computed), and step 4 every root with all roots of
    its frame. HoliTom makes none of them, so FlashVID takes 8 times as long on two CPU cores.

    Attributes:
        retain_ratio: share of the visual tokens that the layers see on average, in (0, 1].
        expansion: `R / r`, tokens that enter the language model in proportion to the average, from 1 up.
        cut_threshold: similarity of consecutive frames below which a segment ends.
        min_segments: smallest number of segments; a video of fewer frames has one segment a frame.
        diverse_ratio: share of a frame's budget for diverse tokens, in [0, 1].
        link_threshold: similarity above which a token links to one of the frame before.
        knn: neighbours that a cluster density averages over.
        event_relevance: whether distances are weighted by `e[t,i]`.
        inner_layer: layer that drops tokens, 0-based, from 1 on. None: `int(layers * 20 / 28)`.
    """

    expansion: float = 1.25
    cut_threshold: float = 0.9
    min_segments: int = 8
    diverse_ratio: float = 0.7
    link_threshold: float = 0.8
    knn: int = 7
    event_relevance: bool = True
    inner_layer: int | None = None

    needs_importance: ClassVar[bool] = True
    usual: ClassVar[dict[str, str]] = {"inner_layer": "20 of 28"}

    def __post_init__(self) -> None:
        super().__post_init__()
        require("expansion", self.expansion, "a number from 1 up", lambda v: v >= 1)
        self._check_similarities("cut_threshold", "link_threshold")
        self._check_counts("min_segments", "knn")
        self._check_shares("diverse_ratio")
        self._check_layers("inner_layer")
        if not isinstance(self.event_relevance, bool):
            raise SettingsError(f"event_relevance must be True or False, got {self.event_relevance!r}")

    @property
    def sent_ratio(self) -> float:
        """`R`: share of the visual tokens that goes into the language model."""
        return min(1, self.expansion * self.retain_ratio)

    @property
    def merges_inside(self) -> bool:
        return self.sent_ratio > self.retain_ratio

    def without_inner(self) -> FlashVID:
        """The method with `expansion=1`, which meets the budget before the language model."""
        return replace(self, expansion=1)

    def merged_count(self, frames: int, tokens: int) -> int:
        return exact_total(self.sent_ratio, frames, tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        segments = cut_scenes(video.features, self.cut_threshold, self.min_segments)
        length = np.array([last - first + 1 for first, last in segments])
        budget = largest_remainder(np.full(frames, tokens), self.merged_count(frames, tokens))
        picks = np.ceil(budget * self.diverse_ratio).astype(np.int64)
        start = length.cumsum() - length
        of_segment = np.add.reduceat(budget, start)

        features = video.features.detach()
        table = np.stack([picks, start.repeat(length), (length * tokens - of_segment).repeat(length)])
        count, opens, links = to_device(table[:, :, None], features.device).unbind()  # [T, 1] each
        scale = video.importance.float()
        if self.event_relevance:
            scale = scale * event_relevance(features, start, length)
        chosen = diverse(features, scale, count, int(picks.max()))
        parts = [unchanged(compact(chosen, int(picks.sum())))]

        if length.max() > 1:
            root = tree_roots(features, chosen, opens, self.link_threshold, links)
        else:  # no frame has another one before it in its segment
            root = torch.arange(frames * tokens, device=chosen.device).view_as(chosen)
        heads = ~chosen & (root == torch.arange(frames * tokens, device=root.device).view_as(root))
        roots = to_host(heads.sum(1))
        shares = largest_remainder_within(roots, of_segment - np.add.reduceat(picks, start), length)
        if shares.any():
            trees = compact(~chosen, frames * tokens - int(picks.sum()))
            parts.append(self._clusters(video, trees, root, heads, roots, shares))
        stages = {"trees": int(picks.sum() + roots.sum())}
        return assemble(video, parts, segments=segments, stages=stages, via=lambda: root)

    def _clusters(
        self, video: VideoTokens, at: Tensor, root: Tensor, heads: Tensor, roots: Sizes, shares: Sizes
    ) -> Part:
        """Steps 3 and 4: average the trees of the tokens `at` and cluster them in each frame."""
        # All trees are averaged, although only roots of frames with a share are clustered: one bag a root.
        number = heads.flatten().cumsum(0) - 1
        trees = gather_bags(compact(heads.flatten()[at], int(roots.sum())), number[root.flatten()[at]])
        places = replace(trees, member=at[trees.member])
        means = places.weighted_sum(video.carried.float(), trees.shares(None))

        budgeted = shares > 0
        shown = heads & to_device(budgeted[:, None], heads.device)
        at = compact(shown, int(roots[budgeted].sum()))
        return clustered(
            means if len(at) == len(means) else means[number[at]],
            at,
            roots[budgeted],
            shares[budgeted],
            knn=self.knn,
            center_weight=None,
            width=video.features.shape[-1],
            standing_for=trees.count[number[at]],
        )

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        """One stage, at `inner_layer`.

        Raises:
            SettingsError: the model has no such layer, or the layers before it exceed the budget.
        """
        layer = max(1, num_layers * 20 // 28) if self.inner_layer is None else self.inner_layer
        require_layer(layer, num_layers)
        keep = (self.retain_ratio / self.sent_ratio * num_layers - layer) / (num_layers - layer)
        if keep <= 0:
            raise SettingsError(
                f"the first {layer} of {num_layers} layers take all of the budget: expansion must be below "
                f"{num_layers / layer:.4g}, got {self.expansion!r}"
            )
        return () if keep == 1 else (DropInside(layer, keep),)


def event_relevance(features: Tensor, start: Sizes, length: Sizes) -> Tensor:
    """Scalar product `[T, N]` float32 of each token with the mean token of its segment.

    Args:
        features: `[T, N, D]`, any floating dtype.
        start: `[S]` on the host: first frame of each segment.
        length: `[S]` on the host: number of its frames.
    """
    features = features.detach().float()
    mean, _ = run_means(frame_means(features), to_device(start, features.device), length, stride=1)
    segment = to_device(np.arange(len(length)).repeat(length), features.device)
    return torch.bmm(features, mean[segment][:, :, None])[:, :, 0]


def diverse(features: Tensor, scale: Tensor, count: Tensor, most: int) -> Tensor:
    """Choose tokens of every frame by greedy max-min diversity (step 2).

    Args:
        features: `[T, N, D]`, any floating dtype; computed with in float32.
        scale: `[T, N]`: factor on the distances from each candidate.
        count: `[T, 1]` int64: number of tokens to choose in each frame.
        most: largest entry of `count`.

    Returns:
        `[T, N]` bool: whether each token is chosen.
    """
    tokens = features.shape[1]
    distance = cosine_gram(features.detach().float()).neg_().add_(1).clamp_min_(0)
    distance.mul_(scale[:, :, None]).nan_to_num_(nan=0.0)  # infinite importance gives the largest numbers
    itself = torch.eye(tokens, dtype=torch.bool, device=features.device)
    least = distance.masked_fill(itself, torch.inf).amin(-1)
    chosen = torch.zeros_like(scale, dtype=torch.bool)
    for pick in range(most):
        best = least.masked_fill(chosen, -torch.inf).argmax(-1, keepdim=True)
        chosen = chosen.scatter(1, best, chosen.gather(1, best) | (pick < count))
        to_best = distance.gather(2, best[:, :, None].expand(-1, tokens, -1))[:, :, 0]
        least = to_best if pick == 0 else least.minimum(to_best)
    return chosen


def tree_roots(
    features: Tensor, chosen: Tensor, segment: Tensor, threshold: float, most: Tensor | None = None
) -> Tensor:
    """Find the root of every token's tree (step 3).

    Args:
        features: `[T, N, D]`, any floating dtype; computed with in float32.
        chosen: `[T, N]` bool: tokens that neither link nor are linked to.
        segment: `[T, 1]` int64, ascending: the number of each frame's segment.
        threshold: similarity above which a token links.
        most: `[T, 1]` int64: largest number of links in each frame's segment; the most similar remain, ties
            go to the lowest place. None: all remain.

    Returns:
        `[T, N]` int64: place `t * N + n` of the root; a token without a link is its own root.
    """
    frames, tokens, _ = features.shape
    place = torch.arange(frames * tokens, device=features.device).view(frames, tokens)
    similarity = frame_similarity(features).masked_fill_(chosen[:-1, :, None], -torch.inf)
    best, nearest = similarity.max(1)
    links = above(best, threshold) & ~chosen[1:] & (segment[1:] == segment[:-1])
    if most is not None:
        links = links & (rank_within(best.masked_fill(~links, -torch.inf), segment[1:, 0]) < most[1:])
    root = torch.cat([place[:1], torch.where(links, place[:-1, :1] + nearest, place[1:])]).flatten()
    for _ in range((frames - 1).bit_length()):  # each round doubles the number of frames that a link spans
        root = root[root]
    return root.view(frames, tokens)
