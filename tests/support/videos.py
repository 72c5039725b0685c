"""Synthetic `VideoTokens`."""

from __future__ import annotations

import torch

from holitom.tokens import VideoTokens


def clip(frames: int, tokens: int, width: int = 8, change: float = 0.5, seed: int = 0) -> VideoTokens:
    """Each position keeps its features from frame to frame, or with chance `change` draws new ones."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, tokens, width, generator=rng)
    for t in range(1, frames):
        still = torch.rand(tokens, generator=rng) >= change
        noise = 0.05 * torch.randn(tokens, width, generator=rng)
        features[t, still] = (features[t - 1] + noise)[still]
    importance = torch.rand(frames, tokens, generator=rng)
    return VideoTokens(features, importance, (1, tokens), torch.randn(frames, tokens, 4, generator=rng))


def of_angles(degrees: list[list[float]], importance: list[list[float]] | None = None) -> VideoTokens:
    """`[T][N]` directions in the plane: cosine similarity is the cosine of a difference of angles."""
    angle = torch.deg2rad(torch.tensor(degrees))
    features = torch.stack([angle.cos(), angle.sin()], dim=-1)
    scores = torch.zeros(angle.shape) if importance is None else torch.tensor(importance)
    return VideoTokens(features, scores, (1, angle.shape[1]), features)
