"""Levels: successive layers of the language model that hold the same tokens.

A method that merges before layers 2 and 5 of an eight-layer language model makes three levels. After a prompt
of four video tokens (v) and two text tokens (t), and one more token (n):

    level 0: layers 0, 1       v v v v t t n      held 7
    level 1: layers 2, 3, 4    v   v   t t n      held 5
    level 2: layers 5, 6, 7        v   t t n      held 4

Text adds the same columns to all levels; a video adds those of its tokens that are left in a level.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """The levels of layers of one cache, or of one forward without a cache.

    Attributes:
        starts: first layer of each level, ascending; the first is 0.
        held: number of columns that each level's layers hold.
        masks: for each level `[B, held]` bool, False at padding; None where no row is padded.
    """

    starts: tuple[int, ...]
    held: tuple[int, ...]
    masks: tuple[Tensor | None, ...]

    @classmethod
    def one(cls, held: int, mask: Tensor | None) -> Levels:
        """Make one level whose layers hold `held` columns."""
        return cls((0,), (held,), (mask,))

    def at(self, layer: int) -> int:
        """Return the index of the level that `layer` belongs to."""
        return bisect_right(self.starts, layer) - 1

    def layers(self, level: int, count: int) -> range:
        """Return the layers of `level` in a language model of `count` layers."""
        return range(*(*self.starts, count)[level : level + 2])

    def split(self, starts: Iterable[int]) -> Levels:
        """Split levels at the layers `starts`; both parts hold the same columns."""
        wanted = tuple(sorted({*self.starts, *starts}))
        levels = [self.at(start) for start in wanted]
        return Levels(wanted, tuple(self.held[at] for at in levels), tuple(self.masks[at] for at in levels))

    def grown(self, level: int, added: Tensor | None, columns: int) -> Levels:
        """Add columns to `level`.

        Args:
            level: index of the level.
            added: `[B, columns]` bool, False at padding; None: all are tokens.
            columns: number of added columns.
        """
        held, masks = list(self.held), list(self.masks)
        masks[level] = _joined(masks[level], added, held[level], columns)
        held[level] += columns
        return Levels(self.starts, tuple(held), tuple(masks))

    def all_grown(self, added: Tensor | None, columns: int) -> Levels:
        """Add the same columns to every level; arguments as in `grown`."""
        levels = self
        for level in range(len(self.starts)):
            levels = levels.grown(level, added, columns)
        return levels

    def select(self, rows: Tensor) -> Levels:
        """Select `rows` `[b]` of the batch, in that order."""
        masks = (m if m is None else m.index_select(0, rows.to(m.device)) for m in self.masks)
        return Levels(self.starts, self.held, tuple(masks))

    def cropped(self, count: int) -> Levels:
        """Remove the latest `count` columns of every level."""
        held = tuple(columns - count for columns in self.held)
        return Levels(self.starts, held, tuple(m if m is None else m[:, :-count] for m in self.masks))


def _joined(mask: Tensor | None, added: Tensor | None, held: int, columns: int) -> Tensor | None:
    if mask is None and added is None:
        return None
    if mask is None:
        assert added is not None
        mask = torch.ones(len(added), held, dtype=torch.bool, device=added.device)
    if added is None:
        added = torch.ones(len(mask), columns, dtype=torch.bool, device=mask.device)
    return torch.cat([mask.to(added.device), added], dim=1)
