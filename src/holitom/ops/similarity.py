"""Cosine similarity of features as they come: any floating dtype, and not always finite.

Towers in float16 overflow, so a feature may be infinite or not a number. Such a vector counts as a zero one:
it is similar to nothing (cosine similarity 0), and every comparison stays a comparison of numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit_vectors(features: Tensor) -> Tensor:
    """Features scaled to length 1.

    Args:
        features: `[..., D]`, any floating dtype; computed with in float32.

    Returns:
        `[..., D]` float32, finite; zeros for a zero vector, and for one that is not finite in float32.
    """
    return F.normalize(features.detach().float(), dim=-1).nan_to_num_(nan=0.0)


def finite_vectors(features: Tensor) -> Tensor:
    """Features in float32, zero where one is not finite, so that it spoils no mean.

    Args:
        features: `[..., D]`, any floating dtype.

    Returns:
        `[..., D]` float32, finite: a new tensor.
    """
    features = features.detach().float()
    bounded = torch.linalg.vector_norm(features, dim=-1, keepdim=True) < torch.inf
    return torch.where(bounded, features, 0.0)


def finite_similarity(similarity: Tensor) -> Tensor:
    """A fresh tensor of cosine similarities, changed in place: 0 where it is not a number."""
    return similarity.nan_to_num_(nan=0.0, posinf=1.0, neginf=-1.0)


def above(similarity: Tensor, threshold: float) -> Tensor:
    """Where cosine similarities are above `threshold`: nowhere at 1, which rounding may exceed."""
    if threshold >= 1:
        return torch.zeros_like(similarity, dtype=torch.bool)
    return similarity > threshold
