"""V-CAST (arXiv 2603.27650): keep salient tokens, and more of them in frames where the video changes course.

This is an independent implementation of the definition; the authors' code is MIT (xinyouu/V-CAST).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import assemble, unchanged
from holitom.ops.budgets import apportion, exact_total
from holitom.ops.host import to_device, to_host
from holitom.ops.ragged import compact, top_mask
from holitom.tokens import MergedTokens, VideoTokens

EPSILON = 1e-6  # least norm that a vector is divided by


@dataclass(frozen=True)
class VCAST(Method):
    """Keep the salient tokens of each frame, in numbers that follow from the path of the frames' means.

    1. `g[t]` is the frame's mean feature, scaled to length 1. A frame's curvature is
       `1 - cos(g[t] - g[t-1], g[t+1] - g[t])`, and 1 for a still frame, the first and the last.
    2. Every frame gets `min_tokens` tokens; the rest of `B = max(round(r T N), T min_tokens)` is shared in
       proportion to `softmax(curvature / temperature)`, none above `N`.
    3. A frame keeps the tokens with the largest `1 - cos(x, g[t])` plus norm, the norm scaled to [0, 1] over
       the frame.

    Details of our own: fractions are rounded by largest remainders, where the authors' code gives the whole
    remainder to one frame; a video of one frame is pruned like any other. The authors use `r = 0.25`
    throughout.

    It reads neither importance nor keys. It takes one device synchronisation.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1]; every frame
            keeps `min_tokens` at any ratio.
        temperature: temperature of the softmax over frames, from 1e-6 up; the lower it is, the more tokens
            frames of high curvature get.
        min_tokens: least number of tokens that a frame keeps, if it has as many; from 0 up.
    """

    temperature: float = 0.7
    min_tokens: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require("temperature", self.temperature, "a number from 1e-6 up", lambda v: v >= 1e-6)
        self._check_counts("min_tokens", least=0)

    def merged_count(self, frames: int, tokens: int) -> int:
        return max(exact_total(self.retain_ratio, frames, tokens), frames * min(self.min_tokens, tokens))

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        features = video.features.detach().float()
        mean = F.normalize(features.mean(1), dim=-1, eps=EPSILON).nan_to_num_(nan=0.0)

        least, count = min(self.min_tokens, tokens), self.merged_count(frames, tokens)
        weight = _softmax(to_host(curvature(mean)).astype(np.float64) / self.temperature)
        caps = np.full(frames, tokens - least, dtype=np.int64)
        budget = least + apportion(weight, count - frames * least, caps)

        norm = torch.linalg.vector_norm(features, dim=-1).nan_to_num_(nan=0.0, posinf=0.0)
        similarity = torch.bmm(features, mean[:, :, None])[..., 0] / norm.clamp_min(EPSILON)
        low, high = norm.aminmax(dim=1, keepdim=True)
        score = 1 - similarity.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        score = score + (norm - low) / (high - low + EPSILON)
        kept = top_mask(score, to_device(budget[:, None], score.device))
        return assemble(video, [unchanged(compact(kept, count))])


def curvature(mean: Tensor) -> Tensor:
    """Curvature of the path of the frames' means at each frame: 0 straight on, 2 for a reversal.

    Args:
        mean: `[T, D]` float32: the frames' means, scaled to length 1.

    Returns:
        `[T]` float32; 1 for the first and the last frame, and for still frames.
    """
    turn = torch.ones(len(mean), device=mean.device)
    if len(mean) > 2:
        step = F.normalize(mean.diff(dim=0), dim=-1, eps=EPSILON)
        turn[1:-1] -= (step[:-1] * step[1:]).sum(-1)
    return turn


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Softmax with weights of at least 1e-12, so that every frame can take tokens that exceed others'
    caps."""
    weight: npt.NDArray[np.float64] = np.exp(logits - logits.max())
    return np.maximum(weight, 1e-12)
