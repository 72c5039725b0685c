"""Attention that tokens receive, computed in chunks so that the full attention matrix is never held."""

from __future__ import annotations

import torch
from torch import Tensor

# Bytes of one chunk of float32 attention weights; small enough that it stays in the cores' caches.
CHUNK_BYTES = 64 * 2**20


def frames_per_chunk(heads: int, patches: int) -> int:
    """Number of frames whose `heads x patches x patches` float32 attention fits one chunk, at least one."""
    return max(1, CHUNK_BYTES // (4 * heads * patches * patches))


def received_attention(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Compute the attention that each token receives, averaged over heads and queries (HoliTom, section 3.2).

    Args:
        query: `[F, heads, P, d]`, any floating dtype.
        key: `[F, heads, P, d]`, same dtype.
        scale: factor on the logits, `d ** -0.5` as a rule.

    Returns:
        `[F, P]` float32; every row sums to one. The softmax is taken in float32, as in eager attention.
    """
    logits = torch.matmul(query, key.transpose(-1, -2)) * scale
    return logits.softmax(dim=-1, dtype=torch.float32).mean(dim=(1, 2))


def query_attention(query: Tensor, key: Tensor, scale: float, visible: Tensor | None = None) -> Tensor:
    """Compute the attention of a few queries of each row over all keys, averaged over heads.

    One chunk holds the weights of at least one query, whatever their size.

    Args:
        query: `[B, heads, Q, d]`.
        key: `[B, kv_heads, S, d]`; `heads` is a multiple of `kv_heads` (grouped-query attention).
        scale: factor on the logits.
        visible: `[B or 1, Q, S]` bool, False where a query does not attend to a key; None: each attends to
            every key.

    Returns:
        `[B, Q, S]` float32, zero where not visible; not a number where a query attends to no key.
    """
    batch, heads, queries, width = query.shape
    kv_heads, columns = key.shape[1:3]
    grouped = query.reshape(batch, kv_heads, -1, queries, width)
    step = max(1, CHUNK_BYTES // (4 * batch * heads * columns))
    lines = []
    for at in range(0, queries, step):
        some = grouped[:, :, :, at : at + step]
        logits = torch.matmul(some.flatten(2, 3), key.transpose(-1, -2)) * scale
        logits = logits.float().view(*some.shape[:4], columns)
        if visible is not None:
            logits = logits.masked_fill(~visible[:, None, None, at : at + step], float("-inf"))
        lines.append(logits.softmax(dim=-1).mean(dim=(1, 2)))
    return lines[0] if len(lines) == 1 else torch.cat(lines, dim=1)
