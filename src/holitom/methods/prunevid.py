"""PruneVid (arXiv 2412.16117): merge over time what stays the same, then cluster in space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require, require_threshold
from holitom.methods.parts import Part, assemble, averaged_at, clustered
from holitom.ops.budgets import exact_total, largest_remainder
from holitom.ops.clustering import dpc_knn
from holitom.ops.host import to_device, to_host
from holitom.ops.ragged import Sizes, compact, run_means
from holitom.ops.segmentation import segments_between
from holitom.ops.similarity import above, unit_vectors
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class PruneVid(Method):
    """Segments of alike frames; static tokens averaged over them; static and dynamic tokens clustered.

    1. DPC-KNN on the frames' mean features finds `max(1, int(T * segment_ratio))` clusters; a segment is a
       run of frames of one cluster, so a cluster that comes back later begins a new segment.
    2. In a segment `n` is static where the mean cosine similarity of `x[t,n]` over all pairs of its frames is
       above `similarity_threshold`; in a one-frame segment nothing is. Static tokens are averaged over time.
    3. The static tokens of each segment and the dynamic tokens of each frame are clustered by DPC-KNN, in
       proportion to their number, into `max(1, round(r T N))` cluster means in all (fewer where
       averaging leaves fewer; a group whose part rounds to none is dropped).

    A segment's static tokens come first, at its first frame, then its dynamic ones frame by frame. Two device
    synchronisations. The paper's third part, selection by the question's attention inside the language model,
    is not included.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        segment_ratio: clusters of frames, as a share of the frames, in (0, 1].
        similarity_threshold: mean similarity above which a position is static.
        knn: neighbours that a cluster density averages over.
    """

    segment_ratio: float = 0.25
    similarity_threshold: float = 0.8
    knn: int = 7

    count_varies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require("segment_ratio", self.segment_ratio, "a number in (0, 1]", lambda v: 0 < v <= 1)
        require_threshold("similarity_threshold", self.similarity_threshold)
        require("knn", self.knn, "a whole number from 1 up", lambda v: v >= 1, whole=True)

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
        """Step 1."""
        frames = features.shape[0]
        means = features.float().mean(1)
        clusters = max(1, int(frames * self.segment_ratio))
        owner = dpc_knn(means, np.array([frames]), np.array([clusters]), knn=self.knn).owner
        return segments_between(to_host(owner[1:] != owner[:-1]))

    def _static(
        self, video: VideoTokens, static: Tensor, first: Sizes, length: Sizes, sizes: Sizes, budgets: Sizes
    ) -> Part:
        """Steps 2 and 3: averages over each segment, and their clusters."""
        _, tokens, width = video.features.shape
        lives = budgets > 0
        sizes = sizes[lives]
        heads = compact(static & to_device(lives[:, None], static.device), int(sizes.sum()))
        at = to_device(first * tokens, static.device)[heads // tokens] + heads % tokens
        lengths = length[lives].repeat(sizes)
        means, averaged = run_means(video.carried, at, lengths, stride=tokens)
        return clustered(
            means,
            at,
            sizes,
            budgets[lives],
            knn=self.knn,
            center_weight=None,
            width=width,
            standing_for=averaged,
        )

    def _dynamic(
        self, video: VideoTokens, static: Tensor, segment: Sizes, sizes: Sizes, budgets: Sizes
    ) -> Part:
        """Step 3: clusters of each frame's other tokens."""
        lives = budgets > 0
        sizes = sizes[lives]
        of, shown = to_device(np.stack([segment, lives]), static.device).unbind()
        at = compact(~static[of] & (shown > 0)[:, None], int(sizes.sum()))
        width = video.features.shape[-1]
        return clustered(
            video.carried[at], at, sizes, budgets[lives], knn=self.knn, center_weight=None, width=width
        )


def pair_similarity(features: Tensor, first: Sizes, length: Sizes) -> Tensor:
    """`[S, N]`: mean cosine similarity of each position over all pairs of a segment's frames.

    Of `L` unit vectors with mean `m` it is `(L |m|^2 - 1) / (L - 1)`; -inf where a segment is one frame.
    """
    tokens = features.shape[1]
    unit = unit_vectors(features.flatten(0, 1))
    at = to_device((first[:, None] * tokens + np.arange(tokens)).ravel(), features.device)
    mean, frames = run_means(unit, at, length.repeat(tokens), stride=tokens)
    pairs = (frames * mean.square().sum(-1) - 1) / (frames - 1)
    return pairs.masked_fill(frames == 1, -torch.inf).view(-1, tokens)
