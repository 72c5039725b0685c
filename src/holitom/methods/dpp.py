"""DPP: one determinantal point process per frame, the selection of CDPruner (NeurIPS 2025, arXiv 2506.10967).

CDPruner weights an image's tokens by their relevance to the question, from CLIP's text tower. The video
models here have no text tower, so importance takes its place: a baseline with a well-known algorithm, for
which no paper states figures. This is an independent implementation; the authors' code is Apache-2.0
(Theia-4869/CDPruner).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import all_of, assemble, unchanged
from holitom.ops.budgets import largest_remainder
from holitom.ops.host import to_device
from holitom.ops.pairs import cosine_gram
from holitom.ops.ragged import compact
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class DPP(Method):
    """Keep the set of tokens of each frame that are important and dissimilar to one another.

    With quality `q = (a - min + floor) / (max - min)` over the video and the kernel
    `L = q_i cos(x_i, x_j) q_j` of a frame, its tokens are picked one by one, each the one that raises
    `log det L` most. They stay as they are. The video keeps `max(1, round(r T N))` tokens, split evenly among
    frames, the remainder from the first frame on.

    Details of our own: where all importance is equal, so is quality; a token counts as spanned by the picks
    where less than 1e-6 of its `L_ii` is outside their span, and spanned tokens are picked in order.

    It takes no device synchronisation. Picking is sequential: as many steps as a frame keeps tokens, for all
    frames at once, of some ten operations. All tokens of a frame are compared with one another, `2 T N^2 D` =
    8.8 GFLOP for 32 frames of 196 tokens, 3584 wide, of which 5/8 are computed, since they are symmetric.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        floor: constant added to every importance, so that no quality is 0; from 1e-12 up.
    """

    floor: float = 1e-6

    needs_importance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require("floor", self.floor, "a number from 1e-12 up", lambda v: v >= 1e-12)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        count = self.merged_count(frames, tokens)
        if count == frames * tokens:
            return all_of(video)
        budget = largest_remainder(np.full(frames, tokens), count)
        kernel = cosine_gram(video.features.detach().float())
        # The similarity of a token to itself is exactly 1, so that equal tokens rank by position.
        itself = kernel.diagonal(dim1=1, dim2=2)
        itself.copy_(itself > 0.5)
        quality = self._quality(video.importance)
        kernel.mul_(quality[:, :, None]).mul_(quality[:, None, :])
        picks = likeliest(kernel, int(budget.max()))
        wanted = to_device(budget[:, None], picks.device) > torch.arange(picks.shape[1], device=picks.device)
        chosen = torch.zeros(frames, tokens, dtype=torch.bool, device=picks.device).scatter(1, picks, wanted)
        return assemble(video, [unchanged(compact(chosen, count))])

    def _quality(self, importance: Tensor) -> Tensor:
        """Quality `[T, N]` float32 of each token, at least `floor`."""
        score = importance.detach().float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        low, high = score.aminmax()
        return (score - low + self.floor) / (high - low).clamp_min(self.floor)


def likeliest(kernel: Tensor, count: int) -> Tensor:
    """Greedy maximum a posteriori inference in determinantal point processes (Chen et al., NeurIPS 2018).

    Args:
        kernel: `[G, n, n]` float32, positive semidefinite: one process per group.
        count: number of picks in each, at most `n`; ties go to the lowest index.

    Returns:
        `[G, count]` int64: indices in the order in which they are picked.
    """
    groups, size, _ = kernel.shape
    left = kernel.diagonal(dim1=1, dim2=2).clone()  # the part of each token's L_ii outside the picks' span
    spanned = 1e-6 * left
    chosen = torch.zeros_like(left, dtype=torch.bool)
    directions = kernel.new_zeros(groups, count, size)
    picks = []
    for step in range(count):
        most, pick = left.masked_fill(chosen, -1).max(1, keepdim=True)  # [G, 1]
        picks.append(pick)
        chosen.scatter_(1, pick, True)
        row = kernel.gather(1, pick[:, :, None].expand(-1, 1, size))[:, 0]
        before = directions.gather(2, pick[:, :, None].expand(-1, count, 1))
        direction = row - torch.bmm(before.mT, directions)[:, 0]
        direction *= torch.where(most > 0, most.rsqrt(), 0.0)
        directions[:, step] = direction
        left = left - direction.square()
        left.masked_fill_(left < spanned, 0.0)
    return torch.cat(picks, 1)
