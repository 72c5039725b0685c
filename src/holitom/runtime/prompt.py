"""Read the columns of a batch that brings videos from the device in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holitom.runtime import refusals


@dataclass(frozen=True)
class Prompt:
    """The columns of one forward, on the host.

    Attributes:
        real: `[B, L]` bool: columns that hold a token.
        holders: `[B, L]` bool: video placeholders.
        positions: `[B, L]` int64: the caller's position ids.
        asked: number of columns up to the end of the question. Later columns hold an answer that is generated
            without a cache.
    """

    real: Tensor
    holders: Tensor
    positions: Tensor
    asked: int

    @classmethod
    def read(
        cls, mask: Tensor | None, holders: Tensor, positions: Tensor | None, seen: int, asked: int
    ) -> Prompt:
        """Copy a forward's columns to the host.

        Args:
            mask: the caller's mask, `[B, seen + L]`; None: every column holds a token.
            holders: `[B, L]` bool on the device: video placeholders.
            positions: the caller's position ids, `[1 or B, L]`; None: consecutive ones.
            seen: number of the caller's columns in the cache.
            asked: as in the attributes.
        """
        rows, columns = holders.shape
        ones = torch.ones_like(holders, dtype=torch.int64)
        real = ones if mask is None else mask[:, -columns:].bool().to(ones)
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
    def question_ends(self) -> list[int]:
        """Each row's last column of the question that holds a token."""
        return last_real(self.real[:, : self.asked])

    @property
    def text_tail(self) -> int:
        """Number of columns at the end that are text in every row."""
        return int(self.text.all(0).flip(0).long().cumprod(0).sum())

    @property
    def query_offset(self) -> int:
        """Number of columns behind the question, above 0 where an answer follows it."""
        return self.holders.shape[1] - self.asked

    @property
    def video_asks(self) -> list[bool]:
        """Whether each row's question ends in a video token, whose attention then ranks the others."""
        return [bool(self.holders[row, column]) for row, column in enumerate(self.question_ends)]

    @property
    def questions(self) -> list[int]:
        """Number of tokens of the question behind each row's last video.

        1 where none is behind it, for the video token that is the query, and in a row without a video.
        """
        holders = self.holders[:, : self.asked]
        behind = holders.flip(1).cumsum(1).flip(1) == 0
        counts = (behind & self.real[:, : self.asked] & holders.any(1, keepdim=True)).sum(1)
        found: list[int] = counts.clamp_min(1).tolist()
        return found

    def first_positions(self, seen: int, device: torch.device, given: bool) -> Tensor:
        """Return the position id `[B]` of each row's first token on `device`; 0 where the cache is empty.

        Ids behind the question are not checked: `generate` restarts them after padding on the right.

        Args:
            seen: number of the caller's columns in the cache.
            device: device of the result.
            given: whether the caller gave position ids.

        Raises:
            UnsupportedUsageError: the ids of a row are not consecutive, so that merging would close gaps.
        """
        real, positions = self.real[:, : self.asked], self.positions[:, : self.asked]
        ranks = real.long().cumsum(1) - 1
        start = positions.gather(1, real.int().argmax(1, keepdim=True))
        if not bool(((positions == start + ranks) | ~real).all()):
            raise refusals.POSITIONS.error("" if given else "none were given: they are the columns' numbers")
        if not seen:
            return torch.zeros(len(start), dtype=torch.int64, device=device)
        return start.squeeze(1).to(device, non_blocking=True)


def last_real(real: Tensor) -> list[int]:
    """Return the index of each row's last True of `real` `[B, L]` bool, on the host."""
    last: list[int] = (real.shape[1] - 1 - real.flip(1).int().argmax(1)).tolist()
    return last
