"""What the host has to know of a batch that brings videos, fetched from the device in one piece."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holitom.runtime import refusals


@dataclass(frozen=True)
class Prompt:
    """One forward's columns, all on the host.

    Attributes:
        real: `[B, L]` bool: columns that hold a token.
        holders: `[B, L]` bool: video placeholders.
        positions: `[B, L]` int64: the caller's position ids.
        asked: the column behind the question. Later ones hold an answer generated without a cache.
    """

    real: Tensor
    holders: Tensor
    positions: Tensor
    asked: int

    @classmethod
    def read(
        cls, mask: Tensor | None, holders: Tensor, positions: Tensor | None, seen: int, asked: int
    ) -> Prompt:
        """Fetch it.

        Args:
            mask: the caller's `[B, seen + L]`, or None where every column holds a token.
            holders: `[B, L]` bool on the device.
            positions: the caller's `[1 or B, L]`, or None for consecutive ones.
            seen: columns in the cache.
            asked: see above.
        """
        rows, columns = holders.shape
        ones = torch.ones_like(holders, dtype=torch.int64)
        real = ones if mask is None else mask[:, -columns:].to(ones)
        if positions is None:
            positions = ones.cumsum(1) - 1 + seen
        table = torch.stack([real, holders.to(ones), positions.expand(rows, columns).to(ones)]).cpu()
        return cls(real=table[0].bool(), holders=table[1].bool(), positions=table[2], asked=asked)

    @property
    def text(self) -> Tensor:
        """`[B, L]` bool: real tokens that are no video placeholders."""
        return self.real & ~self.holders

    @property
    def last_real(self) -> list[int]:
        """Each row's last column that holds a token."""
        return last_real(self.real)

    @property
    def asks(self) -> list[int]:
        """Each row's last column of the question that holds a token."""
        return last_real(self.real[:, : self.asked])

    @property
    def text_tail(self) -> int:
        """How many columns at the end are text in every row."""
        return int(self.text.all(0).flip(0).long().cumprod(0).sum())

    @property
    def video_asks(self) -> list[bool]:
        """Whether each row's question ends in a video token."""
        return [bool(self.holders[row, column]) for row, column in enumerate(self.asks)]

    @property
    def questions(self) -> list[int]:
        """For each row, how many tokens of the question follow its last video.

        1 where none does: the video token that asks, or a row without a video.
        """
        holders = self.holders[:, : self.asked]
        behind = holders.flip(1).cumsum(1).flip(1) == 0
        counts = (behind & self.real[:, : self.asked] & holders.any(1, keepdim=True)).sum(1)
        found: list[int] = counts.clamp_min(1).tolist()
        return found

    def first_positions(self, seen: int, device: torch.device) -> Tensor:
        """Position `[B]` of each row's first token, on `device`; 0 where nothing was `seen` before.

        Behind the question they are `generate`'s own, which restart after padding on the right.

        Raises:
            UnsupportedUsageError: they are not consecutive, and merging would lose what they mean.
        """
        real, positions = self.real[:, : self.asked], self.positions[:, : self.asked]
        ranks = real.long().cumsum(1) - 1
        start = positions.gather(1, real.int().argmax(1, keepdim=True))
        if not bool(((positions == start + ranks) | ~real).all()):
            raise refusals.POSITIONS.error()
        if not seen:
            return torch.zeros(len(start), dtype=torch.int64, device=device)
        return start.squeeze(1).to(device, non_blocking=True)


def last_real(real: Tensor) -> list[int]:
    """Each row's last True of `real` `[B, L]`, on the host."""
    last: list[int] = (real.shape[1] - 1 - real.flip(1).int().argmax(1)).tolist()
    return last
