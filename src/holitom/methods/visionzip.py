"""VisionZip (arXiv 2412.04467): keep dominant tokens, and merge the others into contextual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.methods.parts import Part, assemble, unchanged
from holitom.ops.budgets import largest_remainder
from holitom.ops.clustering import join_most_similar
from holitom.ops.host import to_device
from holitom.ops.ragged import Sizes, compact, gather_bags, top_mask
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class VisionZip(Method):
    """Keep the most important tokens of each frame, and merge the others into evenly spaced targets.

    In a frame with a budget of `b` tokens, the `int(b * 54/64)` most important tokens by `a[t,n]` stay as
    they are. Of the `m` others every `(m // c)`-th, from the first, is one of the `c` contextual targets that
    fill the budget. Each remaining token joins the target whose key is most cosine-similar to its own (keys
    of the vision tower's last layer, averaged over heads). A target becomes the sum of itself and the mean of
    the tokens that joined it.

    The video keeps `max(1, round(r T N))` tokens, split evenly among frames, the remainder from the first
    frame on. A frame's targets follow its dominant tokens. It takes no device synchronisation.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        dominant_ratio: share of a frame's budget for dominant tokens, in [0, 1].
    """

    dominant_ratio: float = 54 / 64

    needs_importance: ClassVar[bool] = True
    needs_keys: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_shares("dominant_ratio")

    def merge(self, video: VideoTokens) -> MergedTokens:
        if video.keys is None:
            raise SettingsError("VisionZip needs the vision tower's keys, and VideoTokens.keys is None")
        frames, tokens, _ = video.features.shape
        budget = largest_remainder(np.full(frames, tokens), self.merged_count(frames, tokens))
        dominant = np.floor(budget * self.dominant_ratio).astype(np.int64)
        targets = budget - dominant
        step = (tokens - dominant) // np.maximum(1, targets)

        plan = to_device(np.stack([dominant, targets, step])[:, :, None], video.features.device)
        chosen = top_mask(video.importance, plan[0])
        parts = [unchanged(compact(chosen, int(dominant.sum())))]
        if targets.any():
            place = (~chosen).cumsum(-1) - 1  # index of each token among those that are not dominant
            strided = ~chosen & (place % plan[2].clamp_min(1) == 0) & (place < plan[1] * plan[2])
            rest = ~chosen & (plan[1] > 0)
            parts.append(self._contextual(video, video.keys, rest, strided, tokens - dominant, targets))
        return assemble(video, parts)

    def _contextual(
        self, video: VideoTokens, keys: Tensor, rest: Tensor, strided: Tensor, sizes: Sizes, targets: Sizes
    ) -> Part:
        """Merge the tokens `rest` into the targets `strided` among them (`[T, N]` bool each)."""
        budgeted = targets > 0
        at = compact(rest, int(sizes[budgeted].sum()))
        heads = compact(strided.flatten()[at], int(targets.sum()))
        owner = join_most_similar(keys.flatten(0, 1)[at], sizes[budgeted], heads, targets[budgeted])
        bags = gather_bags(heads, owner)
        weight = torch.where(bags.rank == 0, 1.0, 1.0 / (bags.size - 1))
        merged = bags.weighted_sum(video.carried[at].float(), weight)
        return Part(at[heads], bags.count, merged, at, owner)
