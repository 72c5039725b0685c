"""SimpleCluster (arXiv 2609.35394): one k-means over the tokens of all frames, rotated by their positions.

This is an independent implementation of the definition; the authors' code is MIT
(xiaozhang79/SimpleCluster).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import all_of, assemble, averaged
from holitom.ops.host import to_device
from holitom.ops.kmeans import EPSILON, cosine_kmeans
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class SimpleCluster(Method):
    """Cluster a video into `B = max(1, round(r T N))` groups of tokens that are similar and close, by
    k-means.

    1. Features are rotated by their place, as in rotary position embeddings: a third of the channels each by
       the frame number, the row and the column (`turned`). Then they are scaled to length 1.
    2. Cosine k-means (`ops.kmeans`): the first seed is the video's first token, and each next seed the token
       whose largest similarity to the seeds so far is lowest; then `iterations` rounds.
    3. Each cluster is sent as the plain mean of its features, before rotation, at the place of its first
       token.

    Details of our own: the first seed, where the authors' code takes the longest of vectors of length 1 and
    so depends on rounding; a cluster that is empty at the end gets the token least similar to its own
    prototype among clusters of two or more, where their code raises; grids need not be square. Frames of
    several tiles (InternVL's images) would need rows and columns of their own, but videos have one tile a
    frame. LLaVA-Video's newlines are sent behind rows that have tokens left, where the code keeps all
    newlines.

    It reads neither importance nor keys. It takes no device synchronisation. Seeding takes `B` sequential
    steps of three operations. All products of two tokens are held at once up to 83 frames of 196 tokens
    (`(T N)^2` float32, 157 MB for 32 frames); for longer videos every step is computed from the features, in
    `B` passes over them. For 32 frames of 196 tokens, 3584 wide, these products take `(T N)^2 D` = 141 GFLOP
    (half of them are computed, since they are symmetric), and the method takes 66 times as long
    as HoliTom on two CPU cores.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        iterations: number of rounds of k-means, from 1 up.
        rope_theta: base of the angles by which features are rotated, above 0.
    """

    iterations: int = 10
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("iterations")
        require("rope_theta", self.rope_theta, "a positive number", lambda v: v > 0)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        place = torch.arange(frames * tokens, device=video.features.device)
        count = self.merged_count(frames, tokens)
        if count == len(place):  # clusters of one token each
            return all_of(video)
        unit = turned(video.features, video.grid, self.rope_theta).flatten(0, 1)
        unit = unit.div_(torch.linalg.vector_norm(unit, dim=-1, keepdim=True).clamp_min_(EPSILON))
        owner = cosine_kmeans(unit.nan_to_num_(nan=0.0), count, self.iterations)

        first = torch.full_like(place[:count], len(place)).scatter_reduce(0, owner, place, "amin")
        at, order = first.sort()
        return assemble(video, [averaged(video, at, order.argsort()[owner])])


def turned(features: Tensor, grid: tuple[int, int], base: float) -> Tensor:
    """Rotate features by their frame number, row and column.

    The channels are three blocks: time `D // 3 + D % 3` wide, row and column `D // 3` each. In a block of
    width `d` the channels `(2i, 2i + 1)` are rotated by the angle `q * base^(-i / (d // 2))` at frame (row,
    column) `q`, counted from 0; the last channel of a block of odd width is unchanged.

    Args:
        features: `[T, N, D]`, any floating dtype.
        grid: `(rows, columns)` of a frame.
        base: the base of the angles.

    Returns:
        `[T, N, D]` float32, a new tensor.
    """
    frames, _, width = features.shape
    third = width // 3
    result = features.detach().float().clone()
    cells, blocks = result.view(frames, *grid, width), (third + width % 3, third, third)
    for axis, block in enumerate(blocks):
        pairs, first = block // 2, sum(blocks[:axis])
        if not pairs:
            continue
        # Angles are in float64, since they grow with the frame number and float32 would round them.
        angle = np.arange(cells.shape[axis])[:, None] * base ** (-np.arange(pairs) / pairs)
        shape = [1, 1, 1, pairs]
        shape[axis] = -1
        table = to_device(np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32), features.device)
        cos, sin = table[0].view(shape), table[1].view(shape)
        even, odd = (cells[..., first + part : first + 2 * pairs : 2] for part in range(2))
        across = even * sin + odd * cos
        even.copy_(even * cos - odd * sin)
        odd.copy_(across)
    return result
