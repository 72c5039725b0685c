"""Cosine similarity of features in any floating dtype, finite or not.

Towers in float16 overflow, so a feature may be infinite or not a number. Such a vector counts as a zero
vector, whose cosine similarity with every vector is 0, so that comparisons and rankings are of numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-12  # least length that a vector is divided by


def unit_vectors(features: Tensor) -> Tensor:
    """Scale features to length 1.

    Args:
        features: `[..., D]`, any floating dtype; computed with in float32.

    Returns:
        `[..., D]` float32, finite; zeros for a zero vector, and for one that is not finite in float32.
    """
    return F.normalize(features.detach().float(), dim=-1).nan_to_num_(nan=0.0)


def inverse_lengths(features: Tensor) -> Tensor:
    """Compute `1 / |x|` of each vector, so that scalar products of features become cosine similarities.

    Scaling products takes much less time than scaling features, which writes a copy of them.

    Args:
        features: `[..., D]`, any floating dtype.

    Returns:
        `[...]` float32, finite; 0 for a zero vector, and for one that is not finite in float32.
    """
    features = features.detach()
    if features.dtype == torch.float64:
        features = features.float()
    length = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float32)
    return torch.where((length > 0) & (length < torch.inf), 1 / length.clamp_min(EPSILON), 0.0)


def cosines(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Turn scalar products into cosine similarities, in place.

    Args:
        products: `[..., n, m]` float32.
        rows: `[..., n]`: `inverse_lengths` of the vectors of the rows.
        columns: `[..., m]`: those of the columns.

    Returns:
        `products`; 0 where a vector is zero or not finite.
    """
    return finite_similarity(products.mul_(rows[..., None]).mul_(columns[..., None, :]))


def finite_vectors(features: Tensor) -> Tensor:
    """Copy features in float32, with zeros for a vector that is not finite, so that it changes no mean.

    Args:
        features: `[..., D]`, any floating dtype.

    Returns:
        `[..., D]` float32, finite; a new tensor.
    """
    features = features.detach().float()
    bounded = torch.linalg.vector_norm(features, dim=-1, keepdim=True) < torch.inf
    return torch.where(bounded, features, 0.0)


def finite_similarity(similarity: Tensor) -> Tensor:
    """Make a tensor of cosine similarities finite, in place: 0 for what is not a number, 1 and -1 for
    infinities."""
    return similarity.nan_to_num_(nan=0.0, posinf=1.0, neginf=-1.0)


def above(similarity: Tensor, threshold: float) -> Tensor:
    """Whether each cosine similarity is above `threshold`; none is above 1, which rounding may exceed."""
    if threshold >= 1:
        return torch.zeros_like(similarity, dtype=torch.bool)
    return similarity > threshold
