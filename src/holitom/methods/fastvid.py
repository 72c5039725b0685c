"""FastVID (arXiv 2503.11187): in each segment keep what is salient, merge the rest around dense tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require, require_threshold
from holitom.methods.parts import Part, assemble, unchanged
from holitom.ops.budgets import exact_total, largest_remainder
from holitom.ops.clustering import dpc_knn, join_most_similar
from holitom.ops.host import to_device
from holitom.ops.ragged import Sizes, compact, gather_bags, top_mask
from holitom.ops.segmentation import cut_scenes
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class FastVID(Method):
    """Of each segment's budget `1 - d` goes to salient tokens, `d` to anchors that take in the rest.

    1. Segments end where consecutive frames' mean features are less similar than `cut_threshold`, and at
       the `min_segments - 1` least similar places in any case.
    2. The video keeps `max(1, round(r T N))` tokens, as many in every frame (the first ones one more where
       that does not come out even). In a segment with a budget of `B` tokens, `c = round(B d)` are anchors;
       its frames keep the rest of their budget as salient tokens, the most important by `a[t,n]`, as they
       are.
    3. Anchor frames are every `anchor_stride`-th of the segment counted from its last. Their other tokens
       offer `c` DPC-KNN centres, as many in each, which are the anchors.
    4. All other tokens of the segment that are not salient join the most cosine-similar anchor, which becomes
       `w anchor + (1 - w) mean(joined)`, `w = max(anchor_weight, 1 / (1 + joined))`.

    Where the anchor frames have too few tokens for `c` anchors (`r` near 1), fewer are anchors and more are
    salient. A frame's anchors follow its salient tokens. One device synchronisation.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        cut_threshold: similarity of consecutive frames below which a segment ends.
        min_segments: segments that there are at least, frames permitting.
        anchor_ratio: `d`, in [0, 1].
        anchor_stride: frames from one anchor frame to the next.
        anchor_weight: an anchor's own share of its merged token at the least, in [0, 1].
        knn: neighbours that a cluster density averages over.
    """

    cut_threshold: float = 0.9
    min_segments: int = 8
    anchor_ratio: float = 0.4
    anchor_stride: int = 4
    anchor_weight: float = 0.6
    knn: int = 4

    needs_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_threshold("cut_threshold", self.cut_threshold)
        for field in ("min_segments", "anchor_stride", "knn"):
            require(field, getattr(self, field), "a whole number from 1 up", lambda v: v >= 1, whole=True)
        for field in ("anchor_ratio", "anchor_weight"):
            require(field, getattr(self, field), "a number in [0, 1]", lambda v: 0 <= v <= 1)

    def merged_count(self, frames: int, tokens: int) -> int:
        return exact_total(self.retain_ratio, frames, tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        segments = cut_scenes(video.features, self.cut_threshold, self.min_segments)
        length = np.array([last - first + 1 for first, last in segments])
        budget = largest_remainder(np.full(frames, tokens), self.merged_count(frames, tokens))
        salient, anchors = self._plan(length, budget, tokens)

        wanted = to_device(salient[:, None], video.features.device)
        chosen = top_mask(video.importance, wanted)
        parts = [unchanged(compact(chosen, int(salient.sum())))]
        if anchors.any():
            parts.append(self._anchors(video, ~chosen, tokens - salient, anchors, length))
        return assemble(video, parts, segments=segments)

    def _plan(self, length: Sizes, budget: Sizes, tokens: int) -> tuple[Sizes, Sizes]:
        """Salient tokens and anchors of each frame, `[T]` each; of a segment's, the first frames one more."""
        start = length.cumsum() - length
        total, most = np.add.reduceat(budget, start), np.maximum.reduceat(budget, start)
        sources = -(-length // self.anchor_stride)  # anchor frames
        wanted = np.rint(total * self.anchor_ratio).astype(np.int64)
        # An anchor frame must hold c / sources anchors beside the most - c / length tokens that are salient;
        # rounding may take one more of either, so one of three slacks will do.
        slack = np.arange(3)[:, None]
        room = np.maximum(0, tokens - most - slack) * sources * length // np.maximum(1, length - sources)
        tried = np.where(length > sources, np.minimum(wanted, room), wanted)
        fits = -(-tried // sources) + most - tried // length <= tokens
        count = np.take_along_axis(tried, fits.argmax(0)[None], axis=0)[0]

        frame = np.arange(len(budget)) - start.repeat(length)
        count, sources, skipped = (
            each.repeat(length) for each in (count, sources, (length - 1) % self.anchor_stride)
        )
        length = length.repeat(length)
        nth, off = np.divmod(frame - skipped, self.anchor_stride)
        offers = (off == 0) & (nth >= 0)
        anchors = np.where(offers, count // sources + (nth < count % sources), 0)
        return budget - (count // length + (frame < count % length)), anchors

    def _anchors(self, video: VideoTokens, rest: Tensor, sizes: Sizes, anchors: Sizes, length: Sizes) -> Part:
        """Anchors among the tokens `rest` (`[T, N]` bool, `sizes` a frame), and what joins them."""
        flat, start = video.features.flatten(0, 1), length.cumsum() - length
        counts = np.add.reduceat(anchors, start)
        merging, offers = (counts > 0).repeat(length), anchors > 0
        masks = rest & to_device(np.stack([merging, offers])[:, :, None], rest.device)  # [2, T, N]
        at = compact(masks[0], int(sizes[merging].sum()))
        offered = compact(masks[1], int(sizes[offers].sum()))
        centers = dpc_knn(flat[offered], sizes[offers], anchors[offers], knn=self.knn).centers

        heads = torch.searchsorted(at, offered[centers])
        of_segment = np.add.reduceat(sizes, start)[counts > 0]
        owner = join_most_similar(flat[at], of_segment, heads, counts[counts > 0])
        bags = gather_bags(heads, owner)
        weight = bags.shares((1.0 / bags.size).clamp_min(self.anchor_weight))
        merged = bags.weighted_sum(video.carried[at].float(), weight)
        return Part(at[heads], bags.count, merged, at, owner)
