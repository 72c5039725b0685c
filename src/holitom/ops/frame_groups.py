"""Groups of similar frames, and merging whole frames within them (EarlyTom, arXiv 2605.30010).

Both stages of EarlyTom need the similarity of frames that are a few frames apart. The device computes it, one
copy brings it to the host, and the rest is host arithmetic on a few numbers per frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holitom.ops.host import to_device, to_host
from holitom.ops.segmentation import neighbour_similarity

Similarities = npt.NDArray[np.float32]
Groups = list[tuple[int, int]]


def lagged_similarity(features: Tensor, lags: int) -> Similarities:
    """Mean cosine similarity of each frame's tokens with those at the same positions 1 to `lags` frames
    later.

    One device synchronisation; each distance takes one product over the whole video.

    Args:
        features: `[T, S, D]`, any floating dtype; computed with in float32.
        lags: largest distance in frames.

    Returns:
        `[lags + 1, T]` float32 on the host: entry `(k, t)` is the similarity of frames `t` and `t + k`; 0 in
        row 0 and where there is no frame `t + k`.
    """
    frames = len(features)
    similarity = features.new_zeros((lags + 1, frames), dtype=torch.float32)
    for lag in range(1, min(lags, frames - 1) + 1):
        similarity[lag, :-lag] = neighbour_similarity(features, apart=lag).mean(1)
    return np.asarray(to_host(similarity), dtype=np.float32)


def frame_groups(similarity: Similarities, threshold: float, max_frames: int, momentum: float) -> Groups:
    """Split a video into groups of successive frames that stay similar to the first frame of their group.

    A running similarity `e` starts at 1 in each group. For each next frame `e <- momentum * m + (1 -
    momentum)
    * e`, where `m` is the frame's similarity with the first frame of the group. The group ends before the
    frame at which `e` falls below `threshold`, and before it would hold `max_frames` frames.

    Args:
        similarity: `[L + 1, T]`, from `lagged_similarity`, `L >= max_frames - 2` or `L >= T - 1`.
        threshold: least `e` within a group.
        max_frames: every group holds fewer frames than this.
        momentum: weight of the newest frame in `e`.

    Returns:
        First and last frame (inclusive) of each group.
    """
    first, level, groups = 0, 1.0, []
    for frame in range(1, similarity.shape[1]):
        full = frame - first + 1 >= max_frames
        if not full:
            level = momentum * float(similarity[frame - first, first]) + (1 - momentum) * level
        if full or level < threshold:
            groups.append((first, frame - 1))
            first, level = frame, 1.0
    return [*groups, (first, similarity.shape[1] - 1)]


@dataclass(frozen=True)
class FrameMerge:
    """A merge of `T` input frames into `T'` output frames, each one input frame or a weighted mean of two.

    Attributes:
        source: `[T']` int64 on the host, ascending: the first (or only) input frame of each output frame.
        other: `[T']` int64: its second input frame; `source` again where there is none.
        share: `[T']` float64: weight of `source`; `other` has the rest.
        groups: first and last input frame (inclusive) of each group.
        count: number of input frames, `T`.
    """

    source: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]
    share: npt.NDArray[np.float64]
    groups: Groups
    count: int

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """`[T', T]`: weights of the input frames in each output frame; rows sum to 1.

        For several merges in succession, the product of their weights is that of the whole.
        """
        weights = np.zeros((len(self.source), self.count))
        left = np.arange(len(self.source))
        np.add.at(weights, (left, self.source), self.share)
        np.add.at(weights, (left, self.other), 1 - self.share)
        return weights

    def __call__(self, frames: Tensor) -> Tensor:
        """Merge `frames` `[T, ...]` into `[T', ...]`, of the same dtype; computed in float32.

        An output frame of one input frame equals it bit for bit.
        """
        if len(self.source) == self.count:
            return frames
        first, second = to_device(np.stack([self.source, self.other]), frames.device)
        share = to_device(self.share.astype(np.float32), frames.device)
        share = share.view(-1, *(1,) * (frames.dim() - 1))
        alone = frames.index_select(0, first)
        mixed = share * alone.float() + (1 - share) * frames.index_select(0, second).float()
        return torch.where(share == 1, alone, mixed.to(frames.dtype))


def merge_frames(
    hidden: Tensor, *, segment_threshold: float = 0.6, max_frames: int = 6, momentum: float = 0.9
) -> FrameMerge:
    """Decide which whole frames merge behind one layer of the vision tower (EarlyTom's stage I).

    Groups of one and two frames stay. In a longer group the first and the last frame stay, and the frames
    between are visited in order. With `s_i` the similarity of frames `i` and `i + 1`, frame `i` merges with
    the next where `s_i` is above the similarity of the group's first and last frame and above `s_{i+1}` (or
    there is no `s_{i+1}` within the group). The two become `w f_i + (1 - w) f_{i+1}`, `w = s_i / (s_i +
    s_{i+1})`. Two details are ours: `w = 1/2` where there is no `s_{i+1}`, and a negative similarity counts
    as 0.

    `holitom.tower.merged_frames` calls this behind some layers of a tower. One device synchronisation, and
    one sequential step on the host for each frame.

    Args:
        hidden: `[T, S, D]`: hidden states that leave the layer, any floating dtype.
        segment_threshold: `threshold` in `frame_groups`.
        max_frames: as in `frame_groups`.
        momentum: as in `frame_groups`.
    """
    similarity = lagged_similarity(hidden, min(max_frames - 2, len(hidden) - 1))
    groups = frame_groups(similarity, segment_threshold, max_frames, momentum)
    left: list[tuple[int, int, float]] = []
    for first, last in groups:
        left += _walked(similarity, first, last)
    source, other, share = zip(*left, strict=True)
    return FrameMerge(np.array(source), np.array(other), np.array(share), groups, len(hidden))


def _walked(similarity: Similarities, first: int, last: int) -> list[tuple[int, int, float]]:
    """Merge one group: `source`, `other` and `share` (see `FrameMerge`) of each output frame."""
    if last - first < 2:
        return [(frame, frame, 1.0) for frame in range(first, last + 1)]
    bound = similarity[last - first, first]
    alike = similarity[1]  # of each frame with the next
    left = [(first, first, 1.0)]
    frame = first + 1
    while frame < last:
        pair = frame + 1 < last  # the next is a middle frame as well
        more = frame + 2 < last  # and so is the one after it
        if pair and alike[frame] > bound and (not more or alike[frame] > alike[frame + 1]):
            own, other = max(0.0, float(alike[frame])), max(0.0, float(alike[frame + 1]))
            share = own / (own + other) if more and own + other else 0.5
            left.append((frame, frame + 1, share))
            frame += 2
        else:
            left.append((frame, frame, 1.0))
            frame += 1
    return [*left, (last, last, 1.0)]
