"""VidCom2: video compression commander (arXiv 2505.14454): keep tokens unlike their frame and their video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import assemble, unchanged
from holitom.ops.blocks import blocks
from holitom.ops.budgets import apportion
from holitom.ops.host import to_device, to_host
from holitom.ops.ragged import compact, top_mask
from holitom.ops.similarity import inverse_lengths
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
    share above `N` tokens is split among the other frames. It takes one device synchronisation.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        temperature: temperature of the softmax over frames, from 1e-6 up; the lower it is, the more tokens
            the most distinct frames get.
    """

    temperature: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require("temperature", self.temperature, "a number from 1e-6 up", lambda v: v >= 1e-6)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        features = video.features.detach().float()
        steady = steady_channels(features)
        of_frame, inverse = unit_means(features, steady)
        of_video = of_frame.mean(0, keepdim=True).expand_as(of_frame)
        to_frame, to_video = likeness(features, torch.stack([of_frame, of_video], 1), inverse).unbind(-1)

        sigma = (-to_video.mean(1) / self.temperature).softmax(0)
        weights = 1 + to_host(sigma).astype(np.float64) - 1 / frames
        count = self.merged_count(frames, tokens)
        budget = apportion(weights, count, np.full(frames, tokens))
        kept = top_mask(-(to_video + to_frame), to_device(budget[:, None], features.device))
        return assemble(video, [unchanged(compact(kept, count))])


def steady_channels(features: Tensor) -> Tensor:
    """Find the half of the channels that varies least: `[D // 2]` int64, ascending, at least one.

    Args:
        features: `[T, N, D]` float32.
    """
    flat = features.flatten(0, 1)
    mean, square = flat.mean(0), flat.new_zeros(flat.shape[1])
    for rows in blocks(len(flat), flat.shape[1], flat.device):
        square += (flat[rows] - mean).square_().sum(0)
    return square.argsort(stable=True)[: max(1, len(square) // 2)].sort().values


def unit_means(features: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Average the tokens of each frame, cut to some channels and scaled to length 1.

    Args:
        features: `[T, N, D]` float32.
        channels: `[C]` int64.

    Returns:
        `[T, D]`: the means, 0 in other channels; `[T, N]`: inverse lengths, 0 for a token that is zero or not
        finite in these channels, which adds 0 to the mean.
    """
    frames, tokens, width = features.shape
    means, lengths = [], []
    for some in blocks(frames, tokens * width, features.device):
        cut = features[some].flatten(0, 1).index_select(1, channels).view(-1, tokens, len(channels))
        inverse = inverse_lengths(cut)
        cut.masked_fill_(inverse[:, :, None] == 0, 0.0)
        means.append(torch.bmm(inverse[:, None] / tokens, cut)[:, 0])
        lengths.append(inverse)
    wide = features.new_zeros(frames, width).index_copy_(1, channels, torch.cat(means))
    return wide, torch.cat(lengths)


def likeness(tokens: Tensor, centres: Tensor, inverse: Tensor | None = None) -> Tensor:
    """Likeness of tokens, scaled to length 1, to centres: the sum of Gaussian kernels of five widths.

    Args:
        tokens: `[T, N, D]` float32.
        centres: `[T, C, D]`, finite.
        inverse: `[T, N]`: inverse lengths of the tokens in the channels where centres are not 0; None: of the
            whole tokens.

    Returns:
        `[T, N, C]` float32.
    """
    inverse = inverse_lengths(tokens) if inverse is None else inverse
    norms = (inverse > 0)[:, :, None] + centres.square().sum(-1)[:, None]
    products = torch.bmm(centres, tokens.mT).mT * inverse[:, :, None]
    # A channel that is not finite makes a product not a number, though centres are 0 there.
    square = (norms - 2 * products.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)).clamp_min_(0)
    widths = 2.0 ** torch.arange(-3, 2, device=tokens.device)
    return torch.exp(-square[..., None] / (2 * widths)).sum(-1)
