"""VidCom2: video compression commander (arXiv 2505.14454): keep tokens unlike their frame and their video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import assemble, unchanged
from holitom.ops.budgets import apportion, exact_total
from holitom.ops.host import to_device, to_host
from holitom.ops.ragged import compact, top_mask
from holitom.ops.similarity import unit_vectors
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class VidCom2(Method):
    """Keep the least similar tokens of each frame, and more of them in distinct frames.

    Features are cut to their `D // 2` channels of least variance over the video and normalised. The
    likeness of a token to a centre is `sum over alpha = 2^-3 .. 2^1 of exp(-||x - centre||^2 / 2 alpha)`.
    A frame's distinctness is `u[t] = -mean over n of the likeness to the video's mean`; with
    `sigma = softmax(u / temperature)` the frame keeps the share `r (1 + sigma[t] - 1/T)` of its tokens: those
    with the smallest sum of the likenesses to the video's and to the frame's mean.

    The shares are rounded by largest remainders, so that the video keeps `max(1, round(r T N))` tokens; a
    share above `N` tokens is split among the other frames. It takes one device synchronisation. It takes
    longer than HoliTom, which reads the features twice: variances, their steady half and two likenesses read
    them some eight times.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        temperature: temperature of the softmax over frames, from 1e-6 up; the lower it is, the more tokens
            the most distinct frames get.
    """

    temperature: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require("temperature", self.temperature, "a number from 1e-6 up", lambda v: v >= 1e-6)

    def merged_count(self, frames: int, tokens: int) -> int:
        return exact_total(self.retain_ratio, frames, tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        unit = unit_vectors(steady_channels(video.features))
        of_frame = unit.mean(1, keepdim=True)
        to_frame, to_video = likeness(unit, of_frame), likeness(unit, of_frame.mean(0, keepdim=True))

        sigma = (-to_video.mean(1) / self.temperature).softmax(0)
        weights = 1 + to_host(sigma).astype(np.float64) - 1 / frames
        count = self.merged_count(frames, tokens)
        budget = apportion(weights, count, np.full(frames, tokens))
        kept = top_mask(-(to_video + to_frame), to_device(budget[:, None], unit.device))
        return assemble(video, [unchanged(compact(kept, count))])


def steady_channels(features: Tensor) -> Tensor:
    """Select the half of the channels that varies least: `[T, N, D // 2]` float32, at least one channel."""
    flat = features.flatten(0, 1).float()
    variance = (flat - flat.mean(0)).square_().mean(0)  # two passes, which vectorise
    steady = variance.argsort(stable=True)[: max(1, len(variance) // 2)].sort().values
    return flat.index_select(1, steady).view(*features.shape[:2], -1)


def likeness(unit: Tensor, centre: Tensor) -> Tensor:
    """Likeness of tokens to a centre: the sum of Gaussian kernels of five widths.

    Args:
        unit: `[T, N, D]` float32: vectors of length 1, or 0.
        centre: `[T, 1, D]`, or `[1, 1, D]` for all frames.

    Returns:
        `[T, N]` float32.
    """
    norms = torch.linalg.vector_norm(unit, dim=-1).square() + centre.square().sum(-1)
    square = (norms - 2 * torch.matmul(unit, centre.mT)[..., 0]).clamp_min(0)
    widths = 2.0 ** torch.arange(-3, 2, device=unit.device)
    return torch.exp(-square[..., None] / (2 * widths)).sum(-1)
