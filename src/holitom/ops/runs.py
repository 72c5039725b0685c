"""Runs: for how many frames each position of a video stays what it is, and what comes and goes.

HoliTom (section 3.1) averages a position over time only where it is static throughout a whole segment, so
that one cut, or one object that passes, breaks every average of its frames. A run is broken by its own
position alone: it begins where that position differs from one frame earlier. Runs so prune every repeat that
there is, which bounds from above what any segmentation can prune.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from holitom.ops.host import to_host
from holitom.ops.ragged import compact, top_mask
from holitom.ops.segmentation import SLICES
from holitom.ops.similarity import above, finite_similarity


def frame_similarity(features: Tensor) -> Tensor:
    """Cosine similarity of every token with every token one frame later.

    Args:
        features: `[T, N, D]`, any floating dtype; computed with in float32, a slice of the width at a time.

    Returns:
        `[T - 1, N, N]` float32: entry `(t, n, m)` is that of `x[t, n]` and `x[t + 1, m]`; 0 where a
        vector is zero or not finite.
    """
    frames, tokens, width = features.shape
    products = features.new_zeros((frames - 1, tokens, tokens), dtype=torch.float32)
    square = features.new_zeros((frames, tokens), dtype=torch.float32)
    for part in features.detach().chunk(min(SLICES, width), dim=-1):
        part = part.float()
        products += part[:-1] @ part[1:].mT
        square += part.square().sum(-1)
    norm = square.sqrt().clamp_min(1e-8)
    return finite_similarity(products / (norm[:-1, :, None] * norm[1:, None, :]))


def comes_and_goes(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """How little of each token is to be found anywhere in the frame before, and in the frame after.

    An object that moves is found again next to where it was; one that enters, leaves or flashes is not.

    Args:
        similarity: `[T - 1, N, N]`, from `frame_similarity`.

    Returns:
        `[T, N]` each, in 0..1: 1 minus the similarity of the best match. What has no frame before (after) it
        is found nowhere there.
    """
    nowhere = similarity.new_ones((1, similarity.shape[1]))
    comes = torch.cat([nowhere, 1 - similarity.amax(1)])
    goes = torch.cat([1 - similarity.amax(2), nowhere])
    return comes.clamp(0, 1), goes.clamp(0, 1)


def run_heads(similarity: Tensor, threshold: float, least: int) -> tuple[Tensor, int]:
    """Where runs begin: in the first frame, and where a token is no repeat of the frame before.

    Where that gives fewer than `least`, the least similar of the repeats begin runs too; of equals the
    earliest. One device synchronisation.

    Args:
        similarity: `[T - 1, N]`: of each position with itself one frame later.
        threshold: similarity above which it repeats, at most 1: then nothing does.
        least: runs that there are at least, at most `T * N`.

    Returns:
        `[T, N]` bool, and how many are true.
    """
    tokens = similarity.shape[1]
    begins = int(to_host((~above(similarity, threshold)).sum()))
    count = max(tokens + begins, least)
    novelty = torch.cat([similarity.new_full((1, tokens), torch.inf), -similarity])
    return top_mask(novelty.view(1, -1), count).view_as(novelty), count


def run_of(heads: Tensor) -> Tensor:
    """`[T, N]` int64: the place `t * N + n` where each token's run begins, from `run_heads`'s `heads`."""
    frames, tokens = heads.shape
    frame = torch.arange(frames, device=heads.device)[:, None]
    begun = torch.where(heads, frame, 0).cummax(0).values
    return begun * tokens + torch.arange(tokens, device=heads.device)


@dataclass(frozen=True)
class Runs:
    """Runs of a video: for how long each position stays what it is, and the averages over that time.

    Attributes:
        at: `[R]` int64, ascending: each run's first place `t * N + n`.
        end: `[R]` int64: its last place.
        means: `[R, D]`: average of its tokens.
        importance: `[R]`: average of their importance.
        size: `[R]` int64: how many frames it lasts.
    """

    at: Tensor
    end: Tensor
    means: Tensor
    importance: Tensor
    size: Tensor


def average_runs(rows: Tensor, importance: Tensor, heads: Tensor, count: int) -> Runs:
    """Average every position over each of its runs.

    Args:
        rows: `[T * N, D]`: the video's tokens.
        importance: `[T, N]`.
        heads: `[T, N]` bool, all true in the first frame: where runs begin.
        count: how many are true.
    """
    frames, tokens = heads.shape
    # Position by position, each run's tokens stand together.
    place = torch.arange(frames * tokens, device=rows.device).view(frames, tokens).T.flatten()
    start = compact(heads.T, count)
    means = F.embedding_bag(place, rows, start, mode="mean")
    scores = F.embedding_bag(place, importance.reshape(-1, 1), start, mode="mean").squeeze(1)
    size = torch.diff(start, append=start.new_tensor([frames * tokens]))
    at, order = place[start].sort()
    size = size[order]
    return Runs(at, at + (size - 1) * tokens, means[order], scores[order], size)
