"""Groups of alike frames, and merging whole frames within them (EarlyTom, arXiv 2605.30010).

Both stages of EarlyTom need how alike frames are that stand a few apart. The device works that out, one copy
brings it to the host, and what follows is arithmetic on a few numbers a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holitom.ops.host import to_device, to_host
from holitom.ops.similarity import unit_vectors

Similarities = npt.NDArray[np.float32]
Groups = list[tuple[int, int]]


def lagged_similarity(features: Tensor, lags: int) -> Similarities:
    """Mean cosine similarity of each frame's tokens with those at the same places some frames later.

    One device synchronisation; `lags` products, each over the whole video.

    Args:
        features: `[T, S, D]`, any floating dtype; computed with in float32.
        lags: how many frames later at most.

    Returns:
        `[lags + 1, T]` on the host: entry `(k, t)` is that of frames `t` and `t + k`; 0 where there is none.
    """
    frames, tokens, _ = features.shape
    unit = unit_vectors(features).flatten(1)
    similarity = unit.new_zeros(lags + 1, frames)
    for lag in range(1, min(lags, frames - 1) + 1):
        product = torch.bmm(unit[:-lag, None], unit[lag:, :, None])
        similarity[lag, :-lag] = product.flatten() / tokens
    return np.asarray(to_host(similarity), dtype=np.float32)


def frame_groups(similarity: Similarities, threshold: float, max_frames: int, momentum: float) -> Groups:
    """Stretches of frames that stay like their first one.

    For each next frame `e <- momentum * m + (1 - momentum) * e`, `m` its similarity with the first frame of
    the open group, `e = 1` when the group opens. The group ends before a frame where `e` is below `threshold`
    or with which it would hold `max_frames`.

    Args:
        similarity: `[L + 1, T]`, from `lagged_similarity`, `L >= max_frames - 2` or `L >= T - 1`.
        threshold: of `e`.
        max_frames: a group holds fewer.
        momentum: share of the newest frame in `e`.

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
    """Which frames merge: each that is left is one frame, or a mean of two.

    Attributes:
        source: `[T']` int64 on the host, ascending: the number, among the frames that came in, of the first
            (or only) source of each frame that is left.
        other: `[T']` int64: the number of its second source; the first again where there is none.
        share: `[T']` float64: the first source's share in it; the second has the rest.
        groups: first and last frame (inclusive) of each group of the frames that came in.
        count: frames `T` that came in.
    """

    source: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]
    share: npt.NDArray[np.float64]
    groups: Groups
    count: int

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """`[T', T]`: each frame that is left as a mean of what came in; rows sum to 1.

        Of several merges one after another the product says how much of each frame a token stands for.
        """
        weights = np.zeros((len(self.source), self.count))
        left = np.arange(len(self.source))
        np.add.at(weights, (left, self.source), self.share)
        np.add.at(weights, (left, self.other), 1 - self.share)
        return weights

    def __call__(self, frames: Tensor) -> Tensor:
        """The merged frames `[T', ...]` of `frames` `[T, ...]`, in their dtype; computed in float32.

        A frame that stays alone stays as it is, bit for bit.
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
    """EarlyTom's stage I behind one layer of the vision tower: whole frames merge, places stay.

    Groups of one and two frames stay. In a longer one the first and the last stay, and the frames between are
    walked: frame `i` merges with the next where the two are more alike (`s_i`) than the group's first and
    last, and the next is less like the one after it (`s_i > s_{i+1}`, or there is none). The two become
    `w f_i + (1 - w) f_{i+1}`, `w = s_i / (s_i + s_{i+1})`, and 1/2 where there is no `s_{i+1}` (ours, and
    so is that a negative similarity counts as 0).

    `holitom.tower.merged_frames` calls it behind some layers of a tower. One device synchronisation, and one
    step on the host for each frame, each after the other.

    Args:
        hidden: `[T, S, D]`: hidden states that leave the layer, any floating dtype.
        segment_threshold: as in `frame_groups`.
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
    """What is left of one group: of each frame its first and second source, and the first one's share."""
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
