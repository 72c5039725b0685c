"""FastVID (arXiv 2503.11187): keep the salient tokens of each segment, and merge the others into anchors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method
from holitom.methods.parts import Part, assemble, unchanged
from holitom.ops.blocks import blocks
from holitom.ops.budgets import largest_remainder
from holitom.ops.clustering import density_peaks
from holitom.ops.host import to_device
from holitom.ops.ragged import Sizes, compact, gather_bags, group_sizes, top_mask
from holitom.ops.segmentation import cut_scenes
from holitom.ops.similarity import unit_vectors
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class FastVID(Method):
    """Keep a share `1 - d` of each segment's budget as salient tokens; merge the others into anchors.

    1. Segments end where the similarity of two frames' mean features is below `cut_threshold`, and at the
       `min_segments - 1` least similar pairs of frames in any case.
    2. The video keeps `max(1, round(r T N))` tokens, split evenly among frames, the remainder from the first
       frame on. In a segment with a budget of `B` tokens, `c = round(B d)` are anchors. The others, split
       evenly among frames, are salient tokens: the most important by `a[t,n]`, which stay as they are.
    3. Anchor frames are every `anchor_stride`-th frame of the segment, counted from its last. The anchors are
       `c` DPC-KNN centres among their tokens that are not salient, split evenly among anchor frames, the
       remainder to the last ones.
    4. Every token of the segment that is not salient joins, in each anchor frame, the anchor that is most
       cosine-similar to it (an anchor joins only those of other frames), so it joins once for each anchor
       frame. An anchor becomes `w anchor + (1 - w) mean(joined)`, `w = max(anchor_weight, 1 / (1 + joined))`.

    Where the anchor frames have too few tokens for `c` anchors (`r` near 1), there are fewer anchors and more
    salient tokens. A frame's anchors follow its salient tokens. `origins` and `size` count each token to the
    most similar of the anchors that it joins, and an anchor to itself. It takes one device synchronisation.
    Every token is compared with all anchors of its segment, at most `2 T N A D` operations for `A` anchors,
    and added to one in each anchor frame, so it takes 4.5 times as long as HoliTom for 32 frames of 196
    tokens, 3584 wide, on two CPU cores.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        cut_threshold: similarity of consecutive frames below which a segment ends.
        min_segments: smallest number of segments; a video of fewer frames has one segment a frame.
        anchor_ratio: `d`, in [0, 1].
        anchor_stride: distance in frames between anchor frames.
        anchor_weight: least weight of an anchor in its merged token, in [0, 1].
        knn: neighbours that a cluster density averages over, whatever the number of anchors.
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
        self._check_similarities("cut_threshold")
        self._check_counts("min_segments", "anchor_stride", "knn")
        self._check_shares("anchor_ratio", "anchor_weight")

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
        """Count the salient tokens and the anchors of each frame, `[T]` each.

        Remainders in a segment: its last anchor frames have one anchor more, its first frames one salient
        token more.
        """
        start = length.cumsum() - length
        total, most = np.add.reduceat(budget, start), np.maximum.reduceat(budget, start)
        sources = -(-length // self.anchor_stride)  # anchor frames
        wanted = np.rint(total * self.anchor_ratio).astype(np.int64)
        # An anchor frame must hold c / sources anchors and most - c / length salient tokens. Rounding up may
        # add one to both, so a count lowered for 0, 1 or 2 tokens of slack fits: the first that does is
        # taken.
        slack = np.arange(3)[:, None]
        room = np.maximum(0, tokens - most - slack) * sources * length // np.maximum(1, length - sources)
        tried = np.where(length > sources, np.minimum(wanted, room), wanted)
        fits = -(-tried // sources) + most - tried // length <= tokens
        count = np.take_along_axis(tried, fits.argmax(0)[None], axis=0)[0]

        frame = np.arange(len(budget)) - start.repeat(length)
        count, sources, left, skipped, length = (
            each.repeat(length)
            for each in (count, sources, total - count, (length - 1) % self.anchor_stride, length)
        )
        nth, off = np.divmod(frame - skipped, self.anchor_stride)
        offers = (off == 0) & (nth >= 0)
        anchors = np.where(offers, count // sources + (nth >= sources - count % sources), 0)
        return left // length + (frame < left % length), anchors

    def _anchors(self, video: VideoTokens, rest: Tensor, sizes: Sizes, anchors: Sizes, length: Sizes) -> Part:
        """Choose anchors among the tokens `rest` (`[T, N]` bool, `sizes` in each frame) and merge `rest`."""
        flat, offers = video.features.flatten(0, 1), anchors > 0
        offered = compact(rest & to_device(offers[:, None], rest.device), int(sizes[offers].sum()))
        centers, _ = density_peaks(
            flat, sizes[offers], anchors[offers], knn=self.knn, capped=False, at=offered
        )
        heads = offered[centers]

        joins = join_every_offer(video.features, rest, heads, sizes, anchors, length)
        bags = gather_bags(joins.of_head, joins.head)
        weight = bags.shares((1.0 / bags.size).clamp_min(self.anchor_weight))
        bags = replace(bags, member=joins.token[bags.member])
        merged = bags.weighted_sum(video.carried.float(), weight)
        size = group_sizes(joins.nearest, len(heads))
        return Part(heads, size, merged, joins.member, joins.nearest)


class Joins(NamedTuple):
    """Pairs of a token and an anchor that it joins, one pair for every anchor frame of the token's segment.

    Attributes:
        token: `[E]` int64: place `t * N + n` of the token; in its own frame an anchor joins itself.
        head: `[E]` int64: the anchor `0..C-1`.
        of_head: `[C]` int64: index of the pair of each anchor with itself.
        member: `[P]` int64: places of the tokens in any pair, each once.
        nearest: `[P]` int64: the most similar anchor that each of them joins; an anchor itself for an anchor.
    """

    token: Tensor
    head: Tensor
    of_head: Tensor
    member: Tensor
    nearest: Tensor


def join_every_offer(
    features: Tensor, rest: Tensor, heads: Tensor, sizes: Sizes, anchors: Sizes, length: Sizes
) -> Joins:
    """Find the most cosine-similar anchor of each anchor frame for every token of the segment.

    The anchors of a frame's segment stand in a table `[T, A, c]`, padded to the most anchor frames `A` and
    the most anchors `c` of any. One segment of three frames, whose frames 0 and 2 have anchors 0, 1 and 2:

        offering (frames)    0 2      first    0 2      count    2 1      number (anchors)    [0 1] [2 -]
        the same row for frames 0, 1 and 2

    Args:
        features: `[T, N, D]`, any floating dtype; computed with in float32.
        rest: `[T, N]` bool: tokens that join anchors.
        heads: `[C]` int64, ascending: places of the anchors, which are among `rest`.
        sizes: `[T]` on the host: number of tokens of `rest` in each frame.
        anchors: `[T]` on the host: number of anchors in each frame.
        length: `[S]` on the host: number of frames of each segment.
    """
    frames, tokens, width = features.shape
    segment = np.arange(len(length)).repeat(length)
    start = length.cumsum() - length
    offers = np.add.reduceat((anchors > 0).astype(np.int64), start)  # anchor frames of each segment
    most, widest = int(offers.max()), int(anchors.max())

    # For each segment: its anchor frames, the number of the first anchor in each, and their anchor counts.
    table = np.zeros((3, len(length), most), dtype=np.int64)
    table[0] = -1
    at = np.flatnonzero(anchors)
    nth = np.arange(len(at)) - (offers.cumsum() - offers)[segment[at]]
    table[:, segment[at], nth] = at, (anchors.cumsum() - anchors)[at], anchors[at]
    offering, first, count = to_device(table[:, segment], features.device).unbind()  # [T, A] each
    slot = torch.arange(widest, device=features.device)
    exists = slot < count[:, :, None]
    number = first[:, :, None] + slot * exists  # [T, A, c]

    directions = unit_vectors(features.flatten(0, 1)[heads])
    found = [
        _most_similar(
            features[at].detach().float(),
            directions.index_select(0, number[at].flatten()).view(*number[at].shape, width),
            exists[at],
        )
        for at in blocks(frames, most * widest * max(width, tokens), features.device)
    ]
    similarity, nearest = (torch.cat(parts) for parts in zip(*found, strict=True))  # [T, N, A] each

    head = first[:, None] + nearest
    place = torch.arange(frames * tokens, device=heads.device)
    itself = torch.zeros_like(place).index_fill_(0, heads, 1)  # 1 for a token that is an anchor
    mine = (itself.cumsum(0) - 1).view(frames, tokens, 1)  # its number as an anchor
    is_head = itself.view(frames, tokens, 1) > 0
    own = is_head & (offering == place[:frames, None])[:, None]
    head = torch.where(own, mine, head)

    joining = rest[:, :, None] & (offering >= 0)[:, None]
    entry = compact(joining, int((sizes * offers[segment]).sum()))
    best = torch.where(
        is_head[..., 0], mine[..., 0], head.gather(2, similarity.argmax(-1, keepdim=True))[..., 0]
    )
    member = compact(joining[..., 0], int(sizes[offers[segment] > 0].sum()))
    return Joins(
        token=entry // most,
        head=head.flatten()[entry],
        of_head=compact(own.flatten()[entry], len(heads)),
        member=member,
        nearest=best.flatten()[member],
    )


def _most_similar(tokens: Tensor, anchors: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Find the most similar anchor in each anchor frame.

    Args:
        tokens: `[F, N, D]` float32: tokens of some frames, not normalised: a token's length scales all its
            similarities alike and leaves their order.
        anchors: `[F, A, c, D]`: normalised anchors in the anchor frames of each frame's segment.
        exists: `[F, A, c]` bool: whether an entry of `anchors` is one or padding.

    Returns:
        `[F, N, A]` float32: similarity times the token's length, -inf in padding; `[F, N, A]` int64: the
        anchor's number `0..c-1` in its frame.
    """
    found = torch.bmm(tokens, anchors.flatten(1, 2).mT).view(*tokens.shape[:2], *exists.shape[1:])
    found = found.nan_to_num_(nan=0.0)
    best: tuple[Tensor, Tensor] = found.masked_fill(~exists[:, None], -torch.inf).max(-1)
    return best
