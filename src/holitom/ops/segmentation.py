"""Global redundancy-aware temporal segmentation (HoliTom, arXiv 2505.21334, section 3.1).

A position is *static* between two frames when its features hardly change. A segment `[i..j]` can
prune `P(i, j) = (j - i) * #{positions static all the way from i to j}` tokens. Dynamic programming finds
the partition of the video into segments that prunes the most, exactly. The device counts static positions
for all pairs of frames at once and one copy brings the counts to the host; every size after that follows
from them on the host.

Three positions over four frames, `=` where a position is static to the next frame:

    frame         0   1   2   3       static_until     static_counts, from i (row) to j (column)
    position 0      =   =   =         3 3 3 3          3 2 2 1
    position 1      =   =   x         2 2 2 3            3 2 1      [0..2] prunes (2 - 0) * 2 = 4 tokens,
    position 2      x   =   =         0 3 3 3              3 2      [0..3] prunes (3 - 0) * 1 = 3
                                                             3
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holitom.ops.host import to_host
from holitom.ops.ragged import top_mask
from holitom.ops.similarity import finite_similarity

Counts = npt.NDArray[np.int64]

# Features of another dtype are converted to float32 in this many slices of their width: a fixed number
# of operations for any video, and in half precision two thirds of the video's own memory at a time.
SLICES = 3


def neighbour_similarity(features: Tensor, apart: int = 1) -> Tensor:
    """Cosine similarity of each position with itself `apart` frames later.

    One batched product of every token with itself and with its successor, on strided views of the features,
    gives norms and scalar products; no other tensor of the video's size is stored.

    Args:
        features: `[T, N, D]`, any floating dtype.
        apart: distance between the two frames, from 1 up.

    Returns:
        `[T - apart, N]` float32, or `[0, N]`; 0 where a feature vector is zero or not finite.
    """
    frames, tokens, width = features.shape
    if frames <= apart:
        return features.new_zeros((0, tokens), dtype=torch.float32)
    features = features.detach().contiguous()
    slices = 1 if features.dtype == torch.float32 else min(SLICES, width)
    products: Tensor | None = None
    for part in features.chunk(slices, dim=-1):
        part = part.float().contiguous()
        width, pairs = part.shape[-1], (frames - apart) * tokens
        token = part.as_strided((pairs, 1, width), (width, width, 1))
        both = part.as_strided(
            (pairs, width, 2), (width, 1, apart * tokens * width)
        )  # itself and its successor
        product = torch.bmm(token, both)
        products = product if products is None else products.add_(product)
    assert products is not None, "features have a width"
    square, scalar = products.view(frames - apart, tokens, 2).unbind(-1)
    wide = features[-apart:].float() if features.dtype == torch.float64 else features[-apart:]
    last = torch.linalg.vector_norm(wide, dim=-1, dtype=torch.float32)
    norm = torch.cat([square.sqrt(), last]).clamp_min(1e-8)
    return finite_similarity(scalar / (norm[:-apart] * norm[apart:]))


def static_until(static: Tensor) -> Tensor:
    """The last frame up to which each position, from each frame on, stays static.

    Args:
        static: `[T - 1, N]` bool: position `n` is static between frames `t` and `t + 1`.

    Returns:
        `[T, N]` int64: the largest `j >= t` with `static[t..j-1, n]` all true.
    """
    last = static.shape[0]
    frame = torch.arange(last, device=static.device)[:, None]
    stops = torch.where(static, last, frame)  # a frame after which the run breaks, else the end
    stops = torch.cat([stops, stops.new_full((1, static.shape[1]), last)])
    return stops.flip(0).cummin(0).values.flip(0)


def static_counts(until: Tensor) -> Counts:
    """Count the positions that are static throughout each span of frames; one device synchronisation.

    Args:
        until: `[T, N]` int64, from `static_until`.

    Returns:
        `[T, T]` int64 on the host: entry `(i, j)`, `j >= i`, counts the positions static between all
        neighbouring frames from `i` to `j`. O(T N + T^2) for all pairs.
    """
    frames = until.shape[0]
    row = torch.arange(0, frames * frames, frames, device=until.device)[:, None]
    cell = (row + until).flatten()
    ending = torch.zeros(frames * frames, dtype=torch.int32, device=until.device)
    ending.scatter_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
    # A position is static from i to j if static_until at frame i is j or later.
    ends = to_host(ending).reshape(frames, frames)
    return np.ascontiguousarray(ends[:, ::-1].cumsum(1, dtype=np.int64)[:, ::-1])


def best_segments(counts: Counts) -> tuple[list[tuple[int, int]], int]:
    """Find the partition into contiguous segments that prunes the most tokens (equation 3).

    `best[e] = max over L of best[e - L] + P(e - L, e - 1)`; ties go to the shortest last segment.

    Args:
        counts: `[T, T]`, from `static_counts`.

    Returns:
        First and last frame (inclusive) of each segment, and the number of tokens that they prune.
    """
    frames = len(counts)
    frame = np.arange(frames)
    prunable = counts * (frame - frame[:, None])  # P(i, j)
    best = np.zeros(frames + 1, dtype=np.int64)
    length = np.zeros(frames + 1, dtype=np.int64)
    for end in range(1, frames + 1):
        total = (best[:end] + prunable[:end, end - 1])[::-1]  # last segment of length 1, 2, ...
        shortest = int(total.argmax())
        best[end], length[end] = total[shortest], shortest + 1
    segments: list[tuple[int, int]] = []
    end = frames
    while end > 0:
        segments.append((end - int(length[end]), end - 1))
        end -= int(length[end])
    return segments[::-1], int(best[frames])


def segments_between(cuts: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last frame (inclusive) of each segment.

    Args:
        cuts: `[T - 1]`: whether frame `t + 1` begins a new segment.
    """
    first = [0, *map(int, np.flatnonzero(cuts) + 1)]
    return list(zip(first, [*(frame - 1 for frame in first[1:]), len(cuts)], strict=True))


def frame_means(features: Tensor) -> Tensor:
    """Mean of each frame's features: `[T, D]` float32 of `[T, N, D]`, any floating dtype."""
    features = features.detach()
    if features.dtype != torch.float32:
        return features.mean(1, dtype=torch.float32)
    frames, tokens, _ = features.shape
    share = features.new_full((frames, 1, tokens), 1 / tokens)
    return torch.bmm(share, features)[:, 0]  # in half of the time of `mean`


def cut_scenes(features: Tensor, threshold: float, least: int) -> list[tuple[int, int]]:
    """Dynamic segmentation (FastVID, arXiv 2503.11187): cut where consecutive frames differ.

    A cut falls between two frames whose mean features have a cosine similarity below `threshold`, and between
    the `least - 1` least similar pairs of frames in any case; ties go to the first. One device
    synchronisation.

    Args:
        features: `[T, N, D]`, any floating dtype.
        threshold: cosine similarity below which two frames are cut apart.
        least: smallest number of segments; a video of fewer frames has one segment a frame.

    Returns:
        First and last frame (inclusive) of each segment.
    """
    similarity = neighbour_similarity(frame_means(features)[:, None]).flatten()
    cuts = top_mask(-similarity[None], min(least, len(features)) - 1)[0] | (similarity < threshold)
    return segments_between(to_host(cuts))
