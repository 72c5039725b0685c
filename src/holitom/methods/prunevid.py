"""PruneVid (arXiv 2412.16117): average static tokens over time, then cluster all tokens in space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import Part, assemble, averaged_at, clustered
from holitom.ops.budgets import exact_total, largest_remainder
from holitom.ops.clustering import density_peaks
from holitom.ops.host import to_device, to_host
from holitom.ops.ragged import Sizes, compact, run_means
from holitom.ops.segmentation import frame_means, segments_between
from holitom.ops.similarity import above, inverse_lengths
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class PruneVid(Method):
    """Find segments of similar frames, average their static tokens, and cluster static and dynamic tokens.

    1. DPC-KNN on the frames' mean features finds `max(1, int(T * segment_ratio))` clusters of frames. Of each
       cluster only its longest runs of consecutive frames remain, and none if these are single frames; frames
       between two runs go to the longer one, ties to the earlier. The runs are the segments.
    2. A position `n` is static in a segment where the mean cosine similarity of `x[t,n]` over all pairs of
       the segment's frames is above `similarity_threshold`; none is in a one-frame segment. Static tokens are
       averaged over time.
    3. The static tokens of each segment and the dynamic tokens of each frame are clustered by DPC-KNN into
       plain means, in proportion to their number and `max(1, round(r T N))` in total (fewer where averaging
       leaves fewer; a group whose share rounds to none is dropped).

    A segment's static tokens come first, at its first frame, then its dynamic tokens frame by frame. It takes
    two device synchronisations. The paper's third part, selection by the question's attention inside the
    language model, is not included.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        segment_ratio: number of clusters of frames, as a share of the frames, in (0, 1].
        similarity_threshold: mean cosine similarity above which a position is static, in [-1, 1].
        knn: neighbours that a cluster density averages over, of frames and of tokens, whatever the number of
            clusters; all of a group where it has fewer.
    """

    segment_ratio: float = 0.25
    similarity_threshold: float = 0.8
    knn: int = 7

    count_varies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require("segment_ratio", self.segment_ratio, "a number in (0, 1]", lambda v: 0 < v <= 1)
        self._check_similarities("similarity_threshold")
        self._check_counts("knn")

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        segments = self._segments(video.features)
        first, last = np.array(segments, dtype=np.int64).T
        length = last - first + 1
        static = above(pair_similarity(video.features, first, length), self.similarity_threshold)  # [S, N]

        repeated = to_host(static.sum(1))
        changing = (tokens - repeated).repeat(length)
        left = int(repeated.sum() + changing.sum())
        count = min(left, exact_total(self.retain_ratio, frames, tokens))
        shares = largest_remainder(np.concatenate([repeated, changing]), count)
        over_time, in_space = np.split(shares, [len(segments)])

        parts = []
        if over_time.any():
            parts.append(self._static(video, static, first, length, repeated, over_time))
        if in_space.any():
            segment = np.arange(len(segments)).repeat(length)
            parts.append(self._dynamic(video, static, segment, changing, in_space))

        def via() -> Tensor:
            of, opens = np.arange(len(segments)).repeat(length), first.repeat(length)
            table = to_device(np.stack([of, opens]), static.device)
            return averaged_at(table[1, :, None], static[table[0]])

        return assemble(video, parts, segments=segments, stages={"temporal": left}, via=via)

    def _segments(self, features: Tensor) -> list[tuple[int, int]]:
        """Step 1: first and last frame (inclusive) of each segment."""
        frames = features.shape[0]
        means = frame_means(features)
        clusters = max(1, int(frames * self.segment_ratio))
        one, budget = np.array([frames]), np.array([clusters])
        _, owner = density_peaks(means, one, budget, knn=self.knn, capped=False)
        return longest_runs(to_host(owner))

    def _static(
        self, video: VideoTokens, static: Tensor, first: Sizes, length: Sizes, sizes: Sizes, budgets: Sizes
    ) -> Part:
        """Steps 2 and 3: average static tokens over each segment and cluster the averages."""
        tokens = video.features.shape[1]
        budgeted = budgets > 0
        sizes = sizes[budgeted]
        heads = compact(static & to_device(budgeted[:, None], static.device), int(sizes.sum()))
        at = to_device(first * tokens, static.device)[heads // tokens] + heads % tokens
        lengths = length[budgeted].repeat(sizes)
        means, averaged = run_means(video.carried, at, lengths, stride=tokens)
        return self._clustered(video)(means, at, sizes, budgets[budgeted], standing_for=averaged)

    def _dynamic(
        self, video: VideoTokens, static: Tensor, segment: Sizes, sizes: Sizes, budgets: Sizes
    ) -> Part:
        """Step 3: cluster the dynamic tokens of each frame."""
        budgeted = budgets > 0
        sizes = sizes[budgeted]
        of, shown = to_device(np.stack([segment, budgeted]), static.device).unbind()
        at = compact(~static[of] & (shown > 0)[:, None], int(sizes.sum()))
        return self._clustered(video)(video.carried[at], at, sizes, budgets[budgeted])

    def _clustered(self, video: VideoTokens) -> Callable[..., Part]:
        """`clustered` with the method's settings, for tokens of `video`."""
        width = video.features.shape[-1]
        return partial(clustered, knn=self.knn, center_weight=None, width=width, capped=False)


def longest_runs(labels: Sizes) -> list[tuple[int, int]]:
    """Derive segments from the clusters of frames (step 1).

    Gaps are filled in order, and a filled gap lengthens the run that the next gap is compared with, so this
    is a loop on the host over runs of frames.

    Args:
        labels: `[T]` on the host: the cluster of each frame.

    Returns:
        First and last frame (inclusive) of each segment.
    """
    runs = segments_between(labels[1:] != labels[:-1])
    longest: dict[int, int] = {}
    for first, last in runs:
        label = int(labels[first])
        longest[label] = max(longest.get(label, 2), last - first + 1)  # a single frame is not a run
    found: list[tuple[int, int, int]] = []  # label, first and last frame; -1: a gap
    for first, last in runs:
        label = int(labels[first])
        _append(found, label if last - first + 1 == longest[label] else -1, first, last)

    closed: list[tuple[int, int, int]] = []
    for index, (label, first, last) in enumerate(found):
        if label < 0:
            before, after = closed[-1:], found[index + 1 : index + 2]
            lengths = [run[0][2] - run[0][1] + 1 if run else 0 for run in (before, after)]
            beside = before if lengths[0] >= lengths[1] else after
            label = beside[0][0] if beside else 0
        _append(closed, label, first, last)
    return [(first, last) for _, first, last in closed]


def _append(runs: list[tuple[int, int, int]], label: int, first: int, last: int) -> None:
    """Extend the last of `runs` to frame `last` if it has the same label, else append a run."""
    if runs and runs[-1][0] == label:
        first = runs.pop()[1]
    runs.append((label, first, last))


def pair_similarity(features: Tensor, first: Sizes, length: Sizes) -> Tensor:
    """Mean cosine similarity `[S, N]` of each position over all pairs of a segment's frames.

    For `L` unit vectors with mean `m` it is `(L |m|^2 - 1) / (L - 1)`; -inf in a segment of one frame, and
    not a number where a feature is not finite.

    Args:
        features: `[T, N, D]`, any floating dtype; computed with in float32.
        first: `[S]` on the host: first frame of each segment.
        length: `[S]` on the host: number of its frames.
    """
    tokens, flat = features.shape[1], features.detach().float().flatten(0, 1)
    at = to_device((first[:, None] * tokens + np.arange(tokens)).ravel(), features.device)
    mean, frames = run_means(flat, at, length.repeat(tokens), stride=tokens, scale=inverse_lengths(flat))
    pairs = (frames * mean.square().sum(-1) - 1) / (frames - 1)
    return pairs.masked_fill(frames == 1, -torch.inf).view(-1, tokens)
