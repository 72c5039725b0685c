"""The order of LLaVA-Video's tokens, with a newline embedding after every row of a frame."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from holitom.ops.host import to_host
from holitom.tokens import MergedTokens


def grid_order(merged: MergedTokens, grid: tuple[int, int], newline: Tensor) -> MergedTokens:
    """Sort tokens by frame and position, and insert a newline token behind every grid row that has tokens.

    A segment's static tokens so stand among the tokens of its first frame. One device synchronisation, for
    the number of rows that are not empty.

    A grid of 2 x 2 with tokens at positions 0, 1 and 3 of frame 0 and 2 of frame 1, `/` for a newline:

        row (of all frames)     0 0 1 3         ends_row      0 1 1 1
        newlines (cumulated)    0 1 2 3         place         0 1 3 5        sent: 0 1 / 3 / 2 /

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
    # Every index without a token is a newline, and takes the frame of the token before it.
    before = torch.searchsorted(place, torch.arange(total, device=row.device), right=True) - 1
    return replace(
        merged,
        features=features,
        frame=frame[before],
        position=torch.full_like(before, -1).index_copy(0, place, position),
        size=torch.zeros_like(before).index_copy(0, place, merged.size[order]),
    )
