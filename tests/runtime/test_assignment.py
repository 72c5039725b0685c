"""Which video stands in which row and at which placeholders: from counts, without a model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holitom import UnsupportedUsageError
from holitom.models.values import SentTokens
from holitom.runtime.assignment import assign


def holders(*rows: str) -> Tensor:
    return torch.tensor([[kind == "v" for kind in row] for row in rows])


def sent(*places: list[int | None]) -> list[SentTokens]:
    """Tokens sent at slots 0, 1, ...; a place of None is a separator's, and no places are those of slots."""
    found = []
    for own in places:
        place = None if None not in own else torch.tensor([-1 if each is None else each for each in own])
        found.append(SentTokens(torch.rand(len(own), 2), torch.arange(len(own)), place=place))
    return found


def test_the_drawing() -> None:
    tokens = sent([0, 1], [0], [0, 1, 2])
    found = assign(holders(*[".vvvvv."] * 2, *["vv.vv.."] * 2), [3, 2, 4], tokens)
    assert found.videos == [range(2), range(2), range(2, 3), range(2, 3)]
    assert (found.copies, found.rows) == (2, [0, 0, 1])
    assert found.numbers == [range(3), range(3), range(3, 6), range(3, 6)]
    placements = found.placements()
    assert [(each.row, each.columns.tolist()) for each in placements] == [
        (0, [1, 2, 3]), (0, [4, 5]), (1, [1, 2, 3]), (1, [4, 5]), (2, [0, 1, 3, 4]), (3, [0, 1, 3, 4]),
    ]  # fmt: skip
    assert [len(each.slot) for each in placements] == [2, 1, 2, 1, 3, 3]


@given(
    st.lists(st.lists(st.integers(1, 5), max_size=3), min_size=1, max_size=4).filter(any), st.integers(1, 3)
)
def test_every_row_gets_its_own_videos(rows: list[list[int]], copies: int) -> None:
    longest = max(map(sum, rows))
    wanted = ["v" * sum(row) + "." * (longest - sum(row)) for row in rows for _ in range(copies)]
    found = assign(holders(*wanted), [slots for row in rows for slots in row], ())
    assert found.copies == copies
    assert [len(videos) for videos in found.videos] == [len(row) for row in rows for _ in range(copies)]
    assert found.rows == [number for number, row in enumerate(rows) for _ in row]


@pytest.mark.parametrize(
    ("rows", "slots"),
    [
        (["vv.", "v.."], [3]),
        (["vvvv"], [3]),
        (["vv.."], [2, 2]),
        (["vvvvvvvv", "vvvv....", "........", "vvvv...."], [8]),  # copies that are not alike
        (["...."], [2]),
    ],
)
def test_what_is_no_whole_video_is_refused(rows: list[str], slots: list[int]) -> None:
    with pytest.raises(UnsupportedUsageError, match="which are not whole videos of"):
        assign(holders(*rows), slots, ())


def test_videos_are_numbered_in_each_row_and_separators_are_none() -> None:
    tokens = sent([0, 1], [0, None], [0, 1, 2])
    found = assign(holders(".vvvvv.", "vv.vv.."), [3, 2, 4], tokens)
    assert found.number_in_row().tolist() == [0, 0, 1, -1, 0, 0, 0]


def test_a_row_of_one_video_without_separators_needs_no_guard() -> None:
    rows = holders(".vvvvv.", "vv.vv..", ".......")
    assert assign(rows, [3, 2, 4], sent([0], [0], [0])).guarded() == [2, 0, 0]
    assert assign(rows, [3, 2, 4], sent([0], [0], [0, None])).guarded() == [2, 1, 0]
