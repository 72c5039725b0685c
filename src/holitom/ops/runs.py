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
from holitom.ops.similarity import above, cosines, inverse_lengths


def frame_similarity(features: Tensor) -> Tensor:
    """Cosine similarity of every token with every token one frame later.

    Args:
        features: `[T, N, D]`, any floating dtype; other dtypes are converted to float32 a slice of the width
            at a time.

    Returns:
        `[T - 1, N, N]` float32: entry `(t, n, m)` is that of `x[t, n]` and `x[t + 1, m]`; 0 where a
        vector is zero or not finite.
    """
    features = features.detach()
    slices = 1 if features.dtype == torch.float32 else min(SLICES, features.shape[-1])
    products: Tensor | None = None
    for part in features.chunk(slices, dim=-1):
        part = part.float()
        product = torch.bmm(part[:-1], part[1:].mT)
        products = product if products is None else products.add_(product)
    assert products is not None, "features have a width"
    inverse = inverse_lengths(features)
    return cosines(products, inverse[:-1], inverse[1:])


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
    # In the order of positions, then frames, a run ends where the next begins.
    start = compact(heads.T, count)
    size = torch.diff(start, append=start.new_tensor([frames * tokens]))
    at, order = (start % frames * tokens + start // frames).sort()
    size = size[order]
    first = size.cumsum(0) - size
    run = torch.repeat_interleave(size, output_size=frames * tokens)
    place = at[run] + (torch.arange(frames * tokens, device=rows.device) - first[run]) * tokens
    means = F.embedding_bag(place, rows, first, mode="mean")
    scores = F.embedding_bag(place, importance.reshape(-1, 1), first, mode="mean").squeeze(1)
    return Runs(at, at + (size - 1) * tokens, means, scores, size)
