"""Choose the frames to show a model: adaptive keyframe sampling (AKS, arXiv 2502.21271, CVPR 2025).

AKS scores every candidate frame against the question with BLIP or CLIP. That costs more time than merging
saves, so `novelty`, a score of our own from thumbnails that ignores the question, is a cheap replacement.
This is an independent implementation; the authors' code (ncTimTang/AKS) states no licence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


def choose_frames(
    scores: npt.ArrayLike, count: int, *, threshold: float = 0.8, spread: float = -100.0, max_depth: int = 5
) -> list[int]:
    """Choose at most `count` frames: those of high scores, spread over the video where scores are even.

    Scores are scaled to [0, 1]. A span of frames is halved until its `count` largest scores exceed its mean
    by more than `threshold` on average, or until it was halved `max_depth` times. A span that was halved `k`
    times gives its `int(count / 2^k)` frames of highest score.

    Args:
        scores: `[F]`, one for each candidate frame; a score that is not finite counts as the lowest.
        count: frames wanted, from 1 up. Below `2^max_depth` the choice may be empty.
        threshold: least excess of the largest scores over the mean at which a span is not halved.
        spread: least standard deviation of the scores of a span that is not halved; the paper's value has no
            effect.
        max_depth: largest number of halvings.

    Returns:
        Ascending indices; all of them where there are fewer candidates than `count`.
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    if len(values) < count:
        return list(range(len(values)))
    values = _scaled(values)
    chosen: list[int] = []
    spans = [(0, len(values), 0)]
    while spans:
        first, end, depth = spans.pop()
        span = values[first:end]
        best = np.argsort(-span, kind="stable")[:count]
        stands_out = (
            span[best].mean() - span.mean() > threshold and span.std() > spread if len(span) else True
        )
        if depth == max_depth or stands_out:
            chosen += map(int, first + best[: count // 2**depth])
        else:
            middle = first + len(span) // 2
            spans += [(first, middle, depth + 1), (middle, end, depth + 1)]
    return sorted(chosen)


def novelty(frames: npt.NDArray[np.uint8], side: int = 16) -> Scores:
    """Score each frame by its change since the frame before: a cheap score for `choose_frames`.

    Frames are reduced to thumbnails of `side x side` mean brightnesses; the score is the mean absolute
    difference from the thumbnail before, in [0, 1]. The first frame gets the mean of the other scores.

    Args:
        frames: `[F, H, W, 3]` uint8.
        side: rows and columns of a thumbnail, at most `H` and `W`.

    Returns:
        `[F]` float64.
    """
    count, height, width, _ = frames.shape
    rows = np.linspace(0, height, min(side, height) + 1).astype(np.int64)[:-1]
    columns = np.linspace(0, width, min(side, width) + 1).astype(np.int64)[:-1]
    if count < 2:
        return np.zeros(count)
    area = np.diff([*rows, height])[:, None] * np.diff([*columns, width])
    thumbnails = np.stack(
        [
            np.add.reduceat(np.add.reduceat(frame.mean(-1), rows, axis=0), columns, axis=1) / area
            for frame in frames
        ]
    )
    change = np.abs(np.diff(thumbnails, axis=0)).mean((1, 2)) / 255
    return np.concatenate([[change.mean()], change])


def _scaled(values: Scores) -> Scores:
    """Scale scores to [0, 1]; equal scores become 0, and so do those that are not finite."""
    finite = np.isfinite(values)
    low = values[finite].min() if finite.any() else 0.0
    values = np.where(finite, values, low)
    scale = values.max() - low
    return (values - low) / scale if scale else np.zeros_like(values)
