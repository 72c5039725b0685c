"""AOT (arXiv 2603.01400, CVPR 2026): anchors into which optimal transport merges the rest of the video.

This is an independent implementation; the authors' code comes with an Apache-2.0 file, its README says MIT
(TyroneLi/AOT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import Part, all_of, assemble
from holitom.ops.blocks import blocks
from holitom.ops.budgets import apportion, largest_remainder
from holitom.ops.host import to_device
from holitom.ops.ragged import Sizes, compact, group_sizes, rankable, top_mask
from holitom.ops.similarity import cosines, finite_vectors, inverse_lengths, unit_vectors
from holitom.ops.transport import sinkhorn
from holitom.tokens import MergedTokens, VideoTokens

WINDOWS = 3  # rows, and columns, of windows in a frame


@dataclass(frozen=True)
class AOT(Method):
    """Merge the tokens of each frame into its anchors, and anchors of later frames into those of a clip's
    first.

    Clips of `clip` frames share `B = max(1, round(r T N))` tokens by their lengths. A clip with `b` tokens
    and `l` frames has `K = round(b / (1 + keep_ratio (l - 1)))` anchors in every frame. Its later frames keep
    `b - K` of their anchors, split evenly, the remainder from the first of them on.

    1. *Anchors.* `int(K (1 - global_ratio))` anchors are the most important tokens, by shallow importance, of
       3 x 3 windows of the frame, split evenly among windows; the others are the most important by `a[t,n]`.
    2. *Inside the frame* all other tokens are transported to the anchors at the cost `1 - cos` plus
       `spatial_weight` times their distance in the frame (`ops.transport`). With the plan `Q` an anchor `y`
       becomes `(1 - nearest_weight) (y + sum Q x) / (1 + sum Q) + nearest_weight * mean(y and the tokens
       nearest to it)`.
    3. *Over the clip.* `Y` are the first frame's anchors. The anchors `X` of each later frame `i = 1 .. l-1`
       are transported to `Y` at the cost `1 - cos`, less its smallest entry, times `1 - exp(-i^2 / (2
       sigma^2))`, rows of the plan scaled to sum to 1. The anchors whose largest share is smallest are kept
       as they are; the others merge into `Y <- (Y + sum p X) / (1 + sum p)`.
    4. `Y` is sent at its places in the first frame, and kept anchors at their own places.

    Details of our own: the budget and the order of tokens. Shallow importance is that of layer 5 (0-based) of
    26 of the vision tower, in proportion in other towers (`VideoTokens.shallow`); where a tower has none
    (MiniCPM-V's, and in vLLM), importance takes its place. Every token is part of several anchors; `size` and
    `origins` count it to the most similar anchor, and then to the anchor with the largest share of that one.
    A token that is not finite adds nothing to an anchor.

    It takes no device synchronisation. Clips of `l` frames take `l` sequential transports, each of
    `iterations` rounds of some ten operations: 400 rounds, one after another, for clips of 4 frames. Every
    token is compared with its frame's anchors and added to them. For 32 frames of 196 tokens, 3584 wide, it
    takes 5 times as long as HoliTom on two CPU cores.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        clip: frames of a clip. None: 4 frames, or 8 in videos of 64 frames and more.
        keep_ratio: share of a later frame's anchors that are kept, in [0, 1].
        global_ratio: share of the anchors chosen from the whole frame, in [0, 1].
        regularisation: weight of the entropy in the transport, from 0.05 up.
        iterations: largest number of rounds of a transport, from 1 up.
        tolerance: mean change at which a transport stops.
        spatial_weight: cost of a distance of one frame's width or height.
        nearest_weight: weight of the plain mean of an anchor and the tokens nearest to it, in [0, 1].
        sigma: number of frames over which the cost of transport over time rises, above 0.
    """

    clip: int | None = None
    keep_ratio: float = 0.3
    global_ratio: float = 0.5
    regularisation: float = 0.1
    iterations: int = 100
    tolerance: float = 0.01
    spatial_weight: float = 0.5
    nearest_weight: float = 0.1
    sigma: float = 1.5

    needs_importance: ClassVar[bool] = True
    needs_shallow: ClassVar[bool] = True
    usual: ClassVar[dict[str, str]] = {"clip": "4, 8 from 64 frames on"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("clip", "iterations")
        self._check_shares("keep_ratio", "global_ratio", "nearest_weight", "spatial_weight")
        require("regularisation", self.regularisation, "a number from 0.05 up", lambda v: v >= 0.05)
        require("tolerance", self.tolerance, "a number from 0 up", lambda v: v >= 0)
        require("sigma", self.sigma, "a number from 1e-3 up", lambda v: v >= 1e-3)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        count = self.merged_count(frames, tokens)
        if count == frames * tokens:
            return all_of(video)
        length = self.clip_length(frames)
        anchors, kept = self.plan(frames, tokens)
        most, device = int(anchors.max()), video.features.device

        chosen = self.anchors(video, anchors)
        at = (~chosen).byte().argsort(dim=1, stable=True)[:, :most]  # [T, K]: positions of anchors, ascending
        wanted, keeps = to_device(np.stack([anchors, kept])[:, :, None], device).unbind()
        there = torch.arange(most, device=device) < wanted
        merged, slot = self.in_space(video, chosen, at, there)
        goes, sent = self._over_time(merged, there, keeps, length)

        index = compact(sent, count)
        number = sent.flatten().cumsum(0) - 1
        of = compact(wanted.expand(-1, tokens) > 0, int((anchors > 0).sum()) * tokens)
        owner = number[goes.gather(1, slot).flatten()[of]]
        size = group_sizes(owner, len(index))
        places = at + torch.arange(frames, device=device)[:, None] * tokens
        rows = torch.cat([table.flatten(0, 1)[index] for table in merged], dim=1)
        part = Part(places.flatten()[index], size, rows, of, owner)
        starts = range(0, frames, length)
        segments = [(begin, min(begin + length, frames) - 1) for begin in starts]
        return assemble(video, [part], segments=segments, stages={"anchors": int(anchors.sum())})

    def clip_length(self, frames: int) -> int:
        """Number of frames of a clip in a video of `frames`."""
        if self.clip is not None:
            return min(self.clip, frames)
        return min(8 if frames >= 64 else 4, frames)

    def plan(self, frames: int, tokens: int) -> tuple[Sizes, Sizes]:
        """Count the anchors of every frame, and the kept ones (0 in a clip's first frame), `[T]` each."""
        size = self.clip_length(frames)
        length = np.diff([*range(0, frames, size), frames])
        budget = largest_remainder(length * tokens, self.merged_count(frames, tokens))
        wanted = np.maximum(1, np.rint(budget / (1 + self.keep_ratio * (length - 1)))).astype(np.int64)
        # Later frames keep at most all their anchors, so there must be at least budget / length of them.
        anchors = np.minimum(np.maximum(wanted, -(-budget // length)), np.minimum(tokens, budget))
        later = np.maximum(1, length - 1)
        offset = np.arange(frames) % size
        left, of = (budget - anchors).repeat(length), later.repeat(length)
        kept = left // of + (offset - 1 < left % of)
        return anchors.repeat(length), np.where(offset > 0, kept, 0)

    def anchors(self, video: VideoTokens, anchors: Sizes) -> Tensor:
        """Step 1: whether each token is an anchor, `[T, N]` bool, `anchors[t]` of them in frame `t`."""
        rows, columns = video.grid
        shallow = video.importance if video.shallow is None else video.shallow
        cuts = [np.arange(1, WINDOWS) * side // WINDOWS for side in (rows, columns)]
        row, column = (
            np.searchsorted(cut, np.arange(side), "right") for cut, side in zip(cuts, video.grid, strict=True)
        )
        window = (row[:, None] * WINDOWS + column).ravel()
        size = np.bincount(window, minlength=WINDOWS**2)

        local = (anchors * (1 - self.global_ratio) + 1e-9).astype(np.int64)
        kinds, kind = np.unique(local, return_inverse=True)
        quota = np.stack([apportion(np.ones(len(size)), int(total), size) for total in kinds])[kind]

        # With tokens sorted by window, then by importance, rank is the index of each one within its window.
        by_window = np.sort(window)
        rank = np.arange(len(window)) - (size.cumsum() - size)[by_window]
        device = video.features.device
        table = to_device(np.stack([window, rank]), device)
        most = to_device(quota[:, by_window], device)
        order = rankable(shallow).argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, table[0][order].argsort(dim=1, stable=True))
        locals_ = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, table[1] < most)

        others = to_device((anchors - local)[:, None], device)
        return locals_ | top_mask(video.importance.detach().float(), others, ~locals_)

    def in_space(
        self, video: VideoTokens, chosen: Tensor, at: Tensor, there: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Step 2: merge the tokens of each frame into its anchors.

        Args:
            video: the video's tokens.
            chosen: `[T, N]` bool: whether each token is an anchor.
            at: `[T, K]` int64: positions of the anchors, then filling.
            there: `[T, K]` bool: whether an entry of `at` is an anchor.

        Returns:
            Merged anchors `[T, K, D]` float32, and `[T, K, E]` where the video has streams; `[T, N]` int64:
            the anchor `0..K-1` of its frame that each token is, or is most similar to.
        """
        features = video.features.detach().float()
        inverse, heads = inverse_lengths(features), _rows(features, at)
        similarity = torch.bmm(features, heads.mT)  # [T, N, K]
        similarity = cosines(similarity, inverse, inverse.gather(1, at))
        place = _coordinates(video.grid, features.device)
        apart = torch.cdist(place[None], place[None])[0]  # [N, N]
        plan = self._plan(1 - similarity + self.spatial_weight * apart[at].mT, ~chosen, there)

        nearest = similarity.masked_fill(~there[:, None], -torch.inf).argmax(2)  # [T, N]
        slot = torch.where(chosen, chosen.cumsum(1) - 1, nearest)
        closest = torch.zeros_like(plan).scatter(2, nearest[:, :, None], 1.0).mul_(~chosen[:, :, None])
        total, joined = 1 + plan.sum(1), 1 + closest.sum(1)  # [T, K]
        beta = self.nearest_weight
        weight = plan.mul_((1 - beta) / total[:, None]).add_(closest.mul_(beta / joined[:, None])).mT
        own = ((1 - beta) / total + beta / joined)[:, :, None]
        merged = [own * heads + _weighted_sums(weight, features)]
        if video.streams is not None:  # apart from the features, since it must not change their rounding
            streams = video.streams.detach().float()
            merged.append(own * _rows(streams, at) + _weighted_sums(weight, streams))
        return merged, slot

    def _over_time(
        self, merged: list[Tensor], there: Tensor, keeps: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Step 3: merge later frames into first ones, in place, frame after frame and all clips at once.

        Args:
            merged: from `in_space`; the rows of the clips' first frames change.
            there: `[T, K]` bool: whether a row is an anchor.
            keeps: `[T, 1]` int64: number of anchors that a frame keeps, 0 in first frames.
            length: frames of a clip; the last clip may be shorter.

        Returns:
            `[T, K]` int64: the row `t K + k` that each anchor merges into, its own if it is kept; `[T, K]`
            bool: whether a row is sent.
        """
        own = torch.arange(there.numel(), device=there.device).view_as(there)
        goes, sent = own.clone(), there.clone()
        for step in range(1, min(length, len(there))):
            now = slice(step, None, length)
            clips = len(there[now])
            first = slice(0, (clips - 1) * length + 1, length)
            share = self._shares(merged[0][now], merged[0][first], there[now], there[first], step)
            stays = top_mask(-share.amax(2), keeps[now], there[now])
            share = share.masked_fill(stays[:, :, None], 0.0)
            total = 1 + share.sum(1)[:, :, None]
            for table in merged:
                table[first] = (table[first] + torch.bmm(share.mT, finite_vectors(table[now]))) / total
            goes[now] = torch.where(stays, own[now], own[first].gather(1, share.argmax(2)))
            sent[now] = stays
        return goes, sent

    def _shares(self, later: Tensor, first: Tensor, rows: Tensor, columns: Tensor, step: int) -> Tensor:
        """Shares `[C, K, K]` of each anchor `step` frames later that merge into the first frame's anchors."""
        similarity = torch.bmm(unit_vectors(later), unit_vectors(first).mT)
        there = rows[:, :, None] & columns[:, None, :]
        cost = 1 - similarity.clamp(-1 + 1e-6, 1 - 1e-6)
        cost = cost - cost.masked_fill(~there, torch.inf).amin((1, 2), keepdim=True)
        cost = torch.where(there, cost * (1 - np.exp(-(step**2) / (2 * self.sigma**2))), 0.0)
        plan = self._plan(cost, rows, columns)
        return plan / plan.sum(2, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)

    def _plan(self, cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return sinkhorn(
            cost,
            rows,
            columns,
            regularisation=self.regularisation,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )


def _rows(values: Tensor, at: Tensor) -> Tensor:
    """Rows `[T, K, D]` of `values` `[T, N, D]` at the positions `at` `[T, K]` of each frame."""
    frames, tokens, _ = values.shape
    place = at + torch.arange(0, frames * tokens, tokens, device=at.device)[:, None]
    return values.flatten(0, 1)[place]


def _weighted_sums(weight: Tensor, values: Tensor) -> Tensor:
    """Sums `[T, K, D]` of `values` `[T, N, D]` weighted by `weight` `[T, K, N]`.

    A vector that is not finite adds 0.
    """
    frames, tokens, width = values.shape
    parts = [
        torch.bmm(weight[some], finite_vectors(values[some]))
        for some in blocks(frames, tokens * width, values.device)
    ]
    return torch.cat(parts)


def _coordinates(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Row and column `[N, 2]` of each position, each scaled to 0..1."""
    sides = [torch.arange(side, device=device) / max(1, side - 1) for side in grid]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
