"""Parts of a video that survive merging, and their assembly into `MergedTokens`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from holitom.ops.clustering import dpc_knn
from holitom.ops.ragged import Sizes, gather_bags
from holitom.ops.similarity import finite_vectors
from holitom.tokens import MergedTokens, Origins, VideoTokens


class Part(NamedTuple):
    """Surviving tokens of one kind.

    Attributes:
        at: `[K]` int64, ascending: places `t * N + n` of the surviving tokens.
        size: `[K]` int64: number of the video's tokens that each stands for.
        merged: `[K, D + E]`: their features and streams (as `VideoTokens.carried`); None: those that the
            video has there.
        member: `[P]` int64: places of the tokens that merged into them; None where none did.
        owner: `[P]` int64: index `0..K-1` of the surviving token that each of `member` merged into.
    """

    at: Tensor
    size: Tensor
    merged: Tensor | None = None
    member: Tensor | None = None
    owner: Tensor | None = None


def unchanged(at: Tensor) -> Part:
    """Keep the tokens at the places `at` as they are."""
    return Part(at, torch.ones_like(at))


def all_of(video: VideoTokens) -> MergedTokens:
    """Keep every token as it is."""
    frames, tokens, _ = video.features.shape
    return assemble(video, [unchanged(torch.arange(frames * tokens, device=video.features.device))])


def averaged(video: VideoTokens, at: Tensor, owner: Tensor) -> Part:
    """Average clusters that divide the whole video; a cluster of one token keeps that token bit for bit.

    A token that is not finite adds 0 to a mean.

    Args:
        video: the video's tokens.
        at: `[C]` int64, ascending: the place of one token of each cluster, at which its mean is sent.
        owner: `[T * N]` int64: the cluster `0..C-1` of each token.
    """
    place = torch.arange(len(owner), device=owner.device)
    bags = gather_bags(at, owner)
    carried = video.carried
    means = bags.weighted_sum(finite_vectors(carried), bags.shares(None)).to(carried.dtype)
    merged = torch.where(bags.count[:, None] == 1, carried[at], means)
    return Part(at, bags.count, merged, place, owner)


def clustered(
    tokens: Tensor,
    at: Tensor,
    sizes: Sizes,
    budgets: Sizes,
    *,
    knn: int,
    center_weight: float | None,
    width: int | None = None,
    capped: bool = True,
    standing_for: Tensor | None = None,
) -> Part:
    """Cluster groups of tokens by DPC-KNN, each centre merged with the tokens that join it.

    Args:
        tokens: `[P, D + E]`: groups of tokens, one after another.
        at: `[P]` int64: their places.
        sizes: `[G]` on the host: number of tokens of each group.
        budgets: `[G]` on the host: number of centres of each group.
        knn: neighbours that a density averages over.
        center_weight: weight of a cluster's centre; None: the plain mean.
        width: `D`: number of leading columns that distances are measured in; None: all.
        capped: see `dpc_knn`.
        standing_for: `[P]` int64: number of the video's tokens that each is an average of; None: one.
    """
    clusters = dpc_knn(
        tokens, sizes, budgets, knn=knn, center_weight=center_weight, width=width, capped=capped
    )
    size = clusters.size
    if standing_for is not None:
        size = torch.zeros_like(size).scatter_add(0, clusters.owner, standing_for)
    return Part(at[clusters.centers], size, clusters.features, at, clusters.owner)


def assemble(
    video: VideoTokens,
    parts: Sequence[Part],
    *,
    segments: list[tuple[int, int]] | None = None,
    stages: dict[str, int] | None = None,
    via: Callable[[], Tensor] | None = None,
) -> MergedTokens:
    """Put parts into the order in which they are sent: by frame, within a frame by part, then by position.

    Args:
        video: the video's tokens.
        parts: surviving tokens; every place is in one part at most.
        segments: `MergedTokens.segments`; None: every frame is a segment.
        stages: token counts before the last stage, which is called "spatial".
        via: returns `Origins.via`, for methods that average over time; None: nothing is averaged.
    """
    frames, tokens, width = video.features.shape
    at = torch.cat([part.at for part in parts])
    # Each part is sorted by frame and position, so a stable sort of their union by frame is enough.
    frame, order = torch.sort(at // tokens, stable=True)
    at, place = at[order], torch.split(order.argsort(), [len(part.at) for part in parts])
    carried = video.carried[at]
    for where, part in zip(place, parts, strict=True):
        if part.merged is not None:
            carried.index_copy_(0, where, part.merged.to(carried.dtype))
    traced = [part._replace(merged=None) for part in parts]  # so that `origins` keeps no features alive
    return MergedTokens(
        features=carried[:, :width],
        frame=frame,
        position=at % tokens,
        size=torch.cat([part.size for part in parts])[order],
        segments=[(t, t) for t in range(frames)] if segments is None else segments,
        stages={**(stages or {}), "spatial": len(at)},
        origins=lambda: _origins(frames, tokens, traced, via),
        streams=None if video.streams is None else carried[:, width:],
    )


def averaged_at(opens: Tensor, static: Tensor, unmerged: Tensor | None = None) -> Tensor:
    """Compute `Origins.via` `[T, N]`: static tokens are averaged in the first frame of their segment.

    Args:
        opens: `[T, 1]` int64: the first frame of each frame's segment.
        static: `[T, N]` bool: whether each token is static.
        unmerged: `[T, N]` bool: static tokens that enter no average; None: none.
    """
    tokens = static.shape[1]
    place = torch.arange(static.numel(), device=static.device).view_as(static)
    averaged = static if unmerged is None else static & ~unmerged
    return torch.where(averaged, opens * tokens + place % tokens, place)


def _origins(frames: int, tokens: int, parts: Sequence[Part], via: Callable[[], Tensor] | None) -> Origins:
    """Map each token to its average over time, and that to its cluster."""
    place = torch.arange(frames * tokens, device=parts[0].at.device)
    into = torch.full_like(place, -1)
    for part in parts:
        into[part.at] = part.at
        if part.member is not None and part.owner is not None:
            into[part.member] = part.at[part.owner]
    through = place if via is None else via().flatten()
    return Origins(through.view(frames, tokens), into[through].view(frames, tokens))
