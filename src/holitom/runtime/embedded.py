"""Finds the token ids of prompts that come as embeddings.

A model that is given `inputs_embeds` without ids finds its placeholders by comparing each column with the
placeholder's embedding. Merging also needs the ids of the text, which tells frames from images, so every
column is looked up in the whole table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from holitom.ops.host import HOST, sent

CHUNK = 4096
"""Rows of the table that are hashed at once."""


def ids_of(embeds: Tensor, table: Any) -> Tensor:
    """Find the ids `[B, L]` int64 whose rows of the table are `embeds`; of equal rows, the first.

    A column that is no token's (a soft prompt) has id 0, which is no vocabulary's placeholder.

    Args:
        embeds: `[B, L, D]`, a prompt. A column is found if it equals a row in every bit, which the model
            requires of placeholders too.
        table: the model's input embeddings: a module that takes ids, with the table `[V, D]` as `weight`.
    """
    size, device = table.weight.shape[0], embeds.device
    home = table.weight.device
    if home.type == "meta":  # accelerate loads an offloaded table when it is called
        home = device
    flat = embeds.detach().flatten(0, -2)
    with torch.no_grad():
        every = torch.split(torch.arange(size, device=home), CHUNK)
        rows = [table(ids).to(flat) for ids in every]
        known = torch.cat([_hashed(each) for each in rows])
        known, order = known.sort(stable=True)
        at = torch.searchsorted(known, _hashed(flat)).clamp_max(size - 1)
        ids = order[at]
        found = table(ids.to(home)).to(flat)
        return torch.where((found == flat).all(-1), ids, 0).view(embeds.shape[:-1]).to(device)


def _hashed(rows: Tensor) -> Tensor:
    """Hash `rows` `[n, D]`: `[n]` int64, the same number for rows that are equal bit for bit."""
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
    generator = torch.Generator(HOST).manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.shape[-1],), generator=generator, device=HOST)
    positive = rows.contiguous() + 0.0  # a zero has two signs
    return (positive.view(bits).to(torch.int64) * sent(factors, rows.device)).sum(-1)
