"""Assign the videos of a prompt to its rows and placeholders.

Two rows, each repeated by `generate` (two beams); the first holds videos 0 and 1, the second video 2:

    holders     row 0  . v v v v v .     videos   0, 1      slots   3 2 4
                row 1  . v v v v v .              0, 1
                row 2  v v . v v . .              2         copies  2
                row 3  v v . v v . .              2
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from holitom.errors import UnsupportedUsageError
from holitom.models.values import SentTokens
from holitom.runtime.layout import Placement


@dataclass(frozen=True)
class Assignment:
    """The videos of each row. Their placeholders are the row's, in order.

    Attributes:
        holders: `[B, L]` bool on the host: video placeholders.
        slots: number of placeholders of each video.
        sent: the tokens that each video sends.
        videos: for each row, the numbers of its videos.
        copies: number of times that `generate` repeats each row (beams, returned sequences).
    """

    holders: Tensor
    slots: list[int]
    sent: Sequence[SentTokens]
    videos: list[range]
    copies: int

    def placements(self) -> list[Placement]:
        """Return every video of every row with the tokens that it sends."""
        features = [each.carried for each in self.sent]
        found = []
        for row, (holders, videos) in enumerate(zip(self.holders, self.videos, strict=True)):
            columns = torch.split(holders.nonzero().squeeze(1), [self.slots[video] for video in videos])
            found += [
                Placement(row, at, self.sent[video].slot, features[video])
                for video, at in zip(videos, columns, strict=True)
            ]
        return found

    @property
    def rows(self) -> list[int]:
        """The row of each video, before `generate` repeats rows."""
        return [row for row, videos in enumerate(self.videos[:: self.copies]) for _ in videos]

    @property
    def borders(self) -> list[int]:
        """Number of each video's first sent token, counted over all videos, and the count of all."""
        return [0, *accumulate(len(each.slot) for each in self.sent)]

    @property
    def numbers(self) -> list[range]:
        """The numbers of each row's sent tokens, counted over all videos."""
        borders = self.borders
        return [range(borders[videos.start], borders[videos.stop]) for videos in self.videos]

    def number_in_row(self) -> Tensor:
        """Number the videos of each row from 0.

        Returns:
            `[S]` int64: the number of the video of each sent token of all videos, in the videos' order; -1
            for a separator.
        """
        found = []
        for videos in self.videos[:: self.copies]:
            for number, video in enumerate(videos):
                slot, place = self.sent[video].slot, self.sent[video].place
                own = torch.full_like(slot, number)
                found.append(own if place is None else own.masked_fill(place < 0, -1))
        return torch.cat(found)

    def guarded(self) -> list[int]:
        """Return for each row the number of videos that inner merging must keep a token of.

        A row that holds one video and no separator needs no guard: its ranking keeps tokens of that video.
        """

        def mixed(videos: range) -> bool:
            return len(videos) > 1 or any(self.sent[video].place is not None for video in videos)

        return [len(videos) if mixed(videos) else 0 for videos in self.videos]


def assign(holders: Tensor, slots: list[int], sent: Sequence[SentTokens]) -> Assignment:
    """Assign videos to runs of placeholders, in reading order.

    Args:
        holders: `[B, L]` bool on the host: video placeholders.
        slots: number of placeholders of each video, in order.
        sent: the tokens that each video sends.

    Raises:
        UnsupportedUsageError: the placeholders of some row are not those of whole videos.
    """
    counts = holders.sum(dim=1).tolist()
    ends = [0, *accumulate(slots)]
    copies, rest = divmod(sum(counts), ends[-1])
    videos: list[range] = []
    first = 0
    for count in counts[:: max(copies, 1)]:
        last = min(bisect_left(ends, ends[first] + count, first), len(slots))
        videos += [range(first, last)] * copies
        first = last
    videos = videos[: len(counts)]
    whole = counts == [ends[each.stop] - ends[each.start] for each in videos]
    if rest or first != len(slots) or not whole:
        raise UnsupportedUsageError(
            f"the rows hold {counts} video placeholders, which are not whole videos of {slots} tokens; pass "
            "the ids that the processor made for these videos (with a cache: for the new part of the prompt)"
        )
    return Assignment(holders, slots, sent, videos, copies)
