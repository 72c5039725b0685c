"""The order of LLaVA-Video's tokens, with a newline embedding after every row of a frame."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from holitom.ops.host import to_host
from holitom.tokens import MergedTokens


def grid_order(merged: MergedTokens, grid: tuple[int, int], newline: Tensor) -> MergedTokens:
    """Frame by frame and position by position, a newline token after every grid row that has tokens.

    The order of LLaVA-Video: a segment's static tokens stand among those of its first frame. One
    device synchronisation, for the number of rows that are not empty.

    Args:
        merged: the tokens in any order.
        grid: `(rows, columns)` of one frame.
        newline: `[D]`, the model's newline embedding.

    Returns:
        The tokens with newlines between them; a newline has its row's frame, position -1 and size 0.
    """
    if len(merged.frame) == 0:
        return merged
    rows, columns = grid
    order = (merged.frame * (rows * columns) + merged.position).argsort()
    frame, position = merged.frame[order], merged.position[order]
    row = frame * rows + position // columns
    ends_row = torch.cat([row[1:] != row[:-1], torch.ones_like(row[:1], dtype=torch.bool)])
    newlines = ends_row.cumsum(0)
    total = len(row) + int(to_host(newlines[-1]))

    place = torch.arange(len(row), device=row.device) + newlines - ends_row.long()
    features = newline.to(merged.features).expand(total, -1).index_copy(0, place, merged.features[order])
    # A newline stands where no token was put: it takes the frame of the token right before it.
    before = torch.searchsorted(place, torch.arange(total, device=row.device), right=True) - 1
    return replace(
        merged,
        features=features,
        frame=frame[before],
        position=torch.full_like(before, -1).index_copy(0, place, position),
        size=torch.zeros_like(before).index_copy(0, place, merged.size[order]),
    )
