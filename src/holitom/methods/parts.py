"""How methods hand in what survives: a few parts of the video, put in order together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from holitom.ops.clustering import dpc_knn
from holitom.ops.ragged import Sizes
from holitom.tokens import MergedTokens, VideoTokens


class Part(NamedTuple):
    """Surviving tokens of one kind, by frame and position: `at` is their place `t * N + n`.

    `merged` are their features, with the video's streams (`VideoTokens.carried`), where they differ from what
    the video has there.
    """

    at: Tensor
    size: Tensor
    merged: Tensor | None


def unchanged(at: Tensor) -> Part:
    """Tokens kept as they are."""
    return Part(at, torch.ones_like(at), None)


def clustered(
    tokens: Tensor,
    at: Tensor,
    sizes: Sizes,
    budgets: Sizes,
    *,
    knn: int,
    center_weight: float | None,
    width: int | None = None,
    standing_for: Tensor | None = None,
) -> Part:
    """DPC-KNN cluster centres, merged with those that join them.

    Args:
        tokens: `[P, D + E]`: groups of tokens, one after another.
        at: `[P]` int64: their places.
        sizes: `[G]` on the host: tokens of each group.
        budgets: `[G]` on the host: centres of each group.
        knn: neighbours that a density averages over.
        center_weight: the centre's share of its cluster; None: the plain mean.
        width: `D`: the columns that distances are of; None: all.
        standing_for: `[P]` int64: how many of the video's tokens each is made of; None: one.
    """
    clusters = dpc_knn(tokens, sizes, budgets, knn=knn, center_weight=center_weight, width=width)
    size = clusters.size
    if standing_for is not None:
        size = torch.zeros_like(size).scatter_add(0, clusters.owner, standing_for)
    return Part(at[clusters.centers], size, clusters.features)


def assemble(
    video: VideoTokens,
    parts: Sequence[Part],
    *,
    segments: list[tuple[int, int]] | None = None,
    stages: dict[str, int] | None = None,
) -> MergedTokens:
    """Frame by frame, within a frame part after part, within a part by position.

    Args:
        video: what was merged.
        parts: what survives; every place in one part at most.
        segments: None: every frame is one.
        stages: token counts before the last stage, which is called "spatial".
    """
    frames, tokens, width = video.features.shape
    at = torch.cat([part.at for part in parts])
    # Each part is in order of frame and position, so ordering their union by frame alone will do.
    frame, order = torch.sort(at // tokens, stable=True)
    at, place = at[order], torch.split(order.argsort(), [len(part.at) for part in parts])
    carried = video.carried[at]
    for where, part in zip(place, parts, strict=True):
        if part.merged is not None:
            carried.index_copy_(0, where, part.merged.to(carried.dtype))
    return MergedTokens(
        features=carried[:, :width],
        frame=frame,
        position=at % tokens,
        size=torch.cat([part.size for part in parts])[order],
        segments=[(t, t) for t in range(frames)] if segments is None else segments,
        stages={**(stages or {}), "spatial": len(at)},
        streams=None if video.streams is None else carried[:, width:],
    )
