"""Attention read-outs: what a method needs to know of an attention layer, without its full matrix."""

from __future__ import annotations

import torch
from torch import Tensor

# One chunk of attention weights (float32) may take this much; small enough to stay near the cores' caches.
CHUNK_BYTES = 64 * 2**20


def frames_per_chunk(heads: int, patches: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """How many frames' `heads x patches x patches` float32 attention fits one chunk (at least one)."""
    return max(1, chunk_bytes // (4 * heads * patches * patches))


def received_attention(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention that each token receives, averaged over heads and queries (HoliTom, section 3.2).

    Args:
        query: `[F, heads, P, d]`, any floating dtype.
        key: `[F, heads, P, d]`, same dtype.
        scale: factor on the logits, `d ** -0.5` as a rule.

    Returns:
        `[F, P]` float32; every row sums to one. The softmax is taken in float32 as eager attention does.
    """
    logits = torch.matmul(query, key.transpose(-1, -2)) * scale
    return logits.softmax(dim=-1, dtype=torch.float32).mean(dim=(1, 2))


def query_attention(query: Tensor, key: Tensor, scale: float, visible: Tensor | None = None) -> Tensor:
    """Attention of one query a row over all keys, averaged over heads: one line of the full matrix.

    Args:
        query: `[B, heads, d]`.
        key: `[B, kv_heads, S, d]`; `heads` is a multiple of `kv_heads` (grouped-query attention).
        scale: factor on the logits.
        visible: `[B, S]` bool, False where the query must not look; None: it sees every key.

    Returns:
        `[B, S]` float32, zero where not visible.
    """
    batch, kv_heads, _, width = key.shape
    grouped = query.view(batch, kv_heads, -1, width)
    logits = (torch.matmul(grouped, key.transpose(-1, -2)) * scale).float()
    if visible is not None:
        logits = logits.masked_fill(~visible[:, None, None, :], float("-inf"))
    return logits.softmax(dim=-1).mean(dim=(1, 2))
