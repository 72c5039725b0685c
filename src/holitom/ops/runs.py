"""Runs: stretches of frames over which one position of a video is static.

HoliTom (section 3.1) averages a position over time only where it is static throughout a whole segment, so a
cut, or an object that passes, ends the averages of all positions in its frames. A run depends on its own
position alone: it begins in the first frame and wherever the position differs from one frame earlier. Runs
prune every token that repeats the one before it, which is an upper bound of what any segmentation can prune.

Two positions over five frames, `|` where a run begins:

    frame         0   1   2   3   4       run_of (places t * 2 + n)     average_runs: at, end, size
    position 0    |a  a   a   |b  b        0  0  0  6  6                 0 4 3,  6 8 2
    position 1    |c  |d  d   d   d        1  3  3  3  3                 1 1 1,  3 9 4
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
    """Measure how much each token differs from every token of the frame before, and of the frame after.

    An object that moves has a match next to where it was; one that enters, leaves or flashes has none.

    Args:
        similarity: `[T - 1, N, N]`, from `frame_similarity`.

    Returns:
        Two tensors `[T, N]`, in 0..1: 1 minus the largest similarity with a token of the frame before
        (after); 1 in the first (last) frame.
    """
    nowhere = similarity.new_ones((1, similarity.shape[1]))
    comes = torch.cat([nowhere, 1 - similarity.amax(1)])
    goes = torch.cat([1 - similarity.amax(2), nowhere])
    return comes.clamp(0, 1), goes.clamp(0, 1)


def run_heads(similarity: Tensor, threshold: float, least: int) -> tuple[Tensor, int]:
    """Mark the first token of each run: all of the first frame, and tokens that do not repeat the frame
    before.

    Where these are fewer than `least`, the repeats that are least similar begin runs too; ties go to the
    earliest. One device synchronisation.

    Args:
        similarity: `[T - 1, N]`: cosine similarity of each position with itself one frame later.
        threshold: similarity above which a token repeats the one before; at 1 none does.
        least: smallest number of runs, at most `T * N`.

    Returns:
        `[T, N]` bool, and the number of true entries.
    """
    tokens = similarity.shape[1]
    begins = int(to_host((~above(similarity, threshold)).sum()))
    count = max(tokens + begins, least)
    novelty = torch.cat([similarity.new_full((1, tokens), torch.inf), -similarity])
    return top_mask(novelty.view(1, -1), count).view_as(novelty), count


def run_of(heads: Tensor) -> Tensor:
    """Places `t * N + n`, `[T, N]` int64, at which each token's run begins, given `heads` of `run_heads`."""
    frames, tokens = heads.shape
    frame = torch.arange(frames, device=heads.device)[:, None]
    begun = torch.where(heads, frame, 0).cummax(0).values
    return begun * tokens + torch.arange(tokens, device=heads.device)


@dataclass(frozen=True)
class Runs:
    """The `R` runs of a video, and averages over their frames.

    Attributes:
        at: `[R]` int64, ascending: first place `t * N + n` of each run.
        end: `[R]` int64: last place of each run.
        means: `[R, D]`: average of the run's tokens.
        importance: `[R]`: average of their importance.
        size: `[R]` int64: number of frames of the run.
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
        heads: `[T, N]` bool, all true in the first frame: whether a run begins there.
        count: number of true entries of `heads`.
    """
    frames, tokens = heads.shape
    # In the order of positions, then frames, the tokens of each run are neighbours.
    place = torch.arange(frames * tokens, device=rows.device).view(frames, tokens).T.flatten()
    start = compact(heads.T, count)
    means = F.embedding_bag(place, rows, start, mode="mean")
    scores = F.embedding_bag(place, importance.reshape(-1, 1), start, mode="mean").squeeze(1)
    size = torch.diff(start, append=start.new_tensor([frames * tokens]))
    at, order = place[start].sort()
    size = size[order]
    return Runs(at, at + (size - 1) * tokens, means[order], scores[order], size)
