"""Planning a prefill and a continuation: from values to values, without a model.

Rows are written as in `runtime/layout.py`: `t` text, `v` a placeholder whose token is sent, `.` a placeholder
whose token merged away, `-` padding. The embedding of a column is its number among the batch's columns plus
one, so that a zero stands for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holitom import UnsupportedUsageError
from holitom.runtime.cache import CacheRecord
from holitom.runtime.layout import Placement, placed
from holitom.runtime.levels import Levels
from holitom.runtime.plan import Columns, Plan, prefill, proceed
from holitom.runtime.positions import Numbering
from holitom.runtime.prompt import Prompt


@pytest.fixture(autouse=True, scope="module")
def on_the_host() -> Iterator[None]:
    """A plan is made of what the host knows."""
    with torch.device("cpu"):
        yield


def columns_of(*rows: str, **more: Any) -> tuple[Columns, Prompt, list[Placement]]:
    """What the caller sends, what the host knows of it, and one video a row that has any."""
    count, length = len(rows), len(rows[0])
    numbers = torch.arange(1, count * length + 1).view(count, length)
    real = torch.tensor([[kind != "-" for kind in row] for row in rows])
    holders = torch.tensor([[kind in "v." for kind in row] for row in rows])
    mask = None if bool(real.all()) else real.long()
    columns = Columns(embeds=numbers[..., None].float(), mask=mask, **more)
    placements = []
    for index, row in enumerate(rows):
        places = torch.tensor([place for place, kind in enumerate(row) if kind in "v."])
        if len(places):
            slot = torch.tensor([slot for slot, place in enumerate(places.tolist()) if row[place] == "v"])
            features = numbers[index][places][slot][:, None].float()
            streams = [stream[index][places][slot] for stream in columns.streams]
            placements.append(Placement(index, places, slot, torch.cat([features, *streams], dim=1)))
    positions = None if columns.positions is None or columns.positions.dim() > 2 else columns.positions
    prompt = Prompt.read(mask, holders, positions, columns.seen, length)
    return columns, prompt, placements


def planned(*rows: str, numbering: Numbering = "anew", inner: Any = (), **more: Any) -> Plan:
    columns, prompt, placements = columns_of(*rows, **more)
    return prefill(columns, prompt, placements, numbering, inner)


def numbers_in(plan: Plan) -> list[list[int]]:
    """The columns that each row's tokens come from, from 1; 0 is padding."""
    return [[int(value) for value in row] for row in plan.embeds[..., 0]]


def test_the_drawing_in_layout() -> None:
    plan = planned("tv.v.tt", "--v...t")
    assert numbers_in(plan) == [[1, 2, 4, 6, 7], [0, 0, 0, 10, 14]]
    assert plan.mask is not None
    assert plan.mask.tolist() == [[True] * 5, [False] * 3 + [True] * 2]
    assert plan.positions is not None
    assert plan.positions.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]
    assert plan.layout is not None
    assert [own.tolist() for own in plan.layout.visual] == [[1, 2], [5]]
    record = plan.record
    assert (record.seen, record.position.tolist(), record.levels.held) == (7, [5, 2], (5,))
    assert record.tail == 1  # of the columns at the end, one is text in both rows


def test_the_drawing_in_levels() -> None:
    """Layers 0 and 1 take in the prompt at once, each further level what is left when it is entered."""
    plan = planned("vvvvtt", inner=(2, 5))
    assert plan.record.levels == Levels((0, 2, 5), (6, 0, 0), (None, None, None))
    assert plan.record.tail == 0  # the text has ranked the video's tokens
    levels = plan.record.levels.grown(1, None, 4).grown(2, None, 3)
    new = Columns(torch.ones(1, 1, 1), seen=6, record=replace(plan.record, levels=levels))
    after = proceed(new, "anew").record
    assert after.levels.held == (7, 5, 4)
    assert after.tail == 1
    assert [after.levels.at(layer) for layer in range(8)] == [0, 0, 1, 1, 1, 2, 2, 2]


@st.composite
def batches(draw: st.DrawFn) -> list[str]:
    """Rows of text around one video of which some tokens are sent, padded to one length on one side."""
    left = draw(st.booleans())
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        before, behind = draw(st.integers(0, 3)), draw(st.integers(1, 3))
        sent = draw(st.lists(st.sampled_from("v."), max_size=6))
        if sent:
            sent[draw(st.integers(0, len(sent) - 1))] = "v"
        rows.append("t" * before + "".join(sent) + "t" * behind)
    length = max(map(len, rows))
    return [row.rjust(length, "-") if left else row.ljust(length, "-") for row in rows]


@settings(max_examples=60, deadline=None)
@given(rows=batches(), own=st.booleans(), seen=st.booleans())
def test_tokens_keep_their_order_and_their_way_home(rows: list[str], own: bool, seen: bool) -> None:
    first = 5 if seen else 0
    columns, prompt, placements = columns_of(*rows)
    if seen:
        record = CacheRecord(9, torch.full((len(rows),), first), None, Levels.one(first, None), 0)
        columns = replace(columns, seen=9, record=record)
    plan = prefill(columns, prompt, placements, "unmerged" if own else "anew")
    length = len(rows[0])
    assert plan.layout is not None
    assert plan.positions is not None
    restored = plan.layout.restore(plan.embeds, plan.columns, plan.last_real)[..., 0]
    for index, row in enumerate(rows):
        stays = [place for place, kind in enumerate(row) if kind in "tv"]
        real = [place for place, kind in enumerate(row) if kind != "-"]
        tokens = numbers_in(plan)[index]
        assert tokens == [0] * (plan.width - len(stays)) + [index * length + place + 1 for place in stays]
        ids = plan.positions[index, plan.width - len(stays) :].tolist()
        assert ids == [first + (real.index(place) if own else rank) for rank, place in enumerate(stays)]
        assert int(plan.record.position[index]) == first + (len(real) if own else len(stays))
        back = restored[index].tolist()
        assert all(back[place] == columns.embeds[index, place, 0] for place in stays)
        assert not any(back[place] for place, kind in enumerate(row) if kind == ".")
        assert all(value == tokens[-1] for value in back[max(real) + 1 :])  # what follows a row on the right
    held = torch.ones(len(rows), first, dtype=torch.bool)
    padded = min(len(row.replace("-", "").replace(".", "")) for row in rows) < plan.width
    assert (plan.mask is None) == (not padded)
    if plan.mask is not None:
        assert torch.equal(plan.mask, torch.cat([held, plan.embeds[..., 0] != 0], dim=1))


@settings(max_examples=40, deadline=None)
@given(rows=batches(), seed=st.integers(0, 2**20))
def test_tokens_on_several_axes_keep_the_ids_of_their_columns(rows: list[str], seed: int) -> None:
    shape = (3, len(rows), len(rows[0]))
    ids = torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))
    plan = planned(*rows, numbering="columns", positions=ids)
    assert plan.positions is not None
    assert plan.record.numbered is not None
    for index, row in enumerate(rows):
        stays = [place for place, kind in enumerate(row) if kind in "tv"]
        assert torch.equal(plan.positions[:, index, plan.width - len(stays) :], ids[:, index, stays])
        assert int(plan.record.position[index]) == int(ids[:, index, stays[-1]].max()) + 1
        assert bool(plan.record.numbered[index]) == row.endswith("-")


@settings(max_examples=40, deadline=None)
@given(rows=batches(), steps=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_later_tokens_count_on_from_the_tokens_that_are_left(rows: list[str], steps: list[int]) -> None:
    record = planned(*rows).record
    before, levels = record.position.clone(), record.levels
    for count in steps:
        embeds = torch.ones(len(rows), count, 1)
        plan = proceed(Columns(embeds, seen=record.seen, record=record), "anew")
        assert plan.embeds is embeds
        assert plan.layout is None
        assert plan.positions is not None
        wanted = record.position[:, None] + torch.arange(count)
        assert torch.equal(plan.positions, wanted)
        record = plan.record
    total = sum(steps)
    assert torch.equal(record.position, before + total)
    assert record.seen == len(rows[0]) + total
    assert record.levels.held == (levels.held[0] + total,)
    back = record.cropped(total)
    assert (back.seen, back.levels.held, back.tail) == (len(rows[0]), levels.held, record.tail - total)
    assert torch.equal(back.position, before)
    for mask, own in zip(back.levels.masks, levels.masks, strict=True):
        assert (mask is None and own is None) or torch.equal(mask, own)  # type: ignore[arg-type]


def test_padded_text_is_packed_again() -> None:
    record = planned("tvvt", "tv.t").record
    streams = [torch.arange(11.0, 17).view(2, 3, 1), torch.arange(21.0, 27).view(2, 3, 1)]
    new = Columns(
        embeds=torch.tensor([[1.0, 2, 3], [4, 5, 6]])[..., None],
        mask=torch.tensor([[1] * 4 + [0, 1, 1], [1] * 4 + [1, 1, 1]]),
        seen=4,
        record=record,
        streams=streams,
    )
    plan = proceed(new, "anew")
    assert numbers_in(plan) == [[0, 2, 3], [4, 5, 6]]
    assert [stream[:, 0].tolist() for stream in plan.streams] == [[12, 13, 14, 15, 16], [22, 23, 24, 25, 26]]
    assert plan.positions is not None
    assert plan.positions.tolist() == [[0, 4, 5], [3, 4, 5]]
    assert plan.record.position.tolist() == [6, 6]
    assert plan.record.tail == 0  # columns do not stand one to one in the layers
    assert plan.mask is not None
    assert plan.mask.tolist() == [[True] * 4 + [False, True, True], [False] + [True] * 6]


def test_rows_that_count_on_do_so_whatever_ids_the_caller_gives() -> None:
    """On several axes, behind a prompt that was padded on the right, `generate` would begin at 1 again."""
    ids = torch.tensor([[0, 1, 2, 9], [0, 1, 1, 1]]).expand(3, -1, -1)
    record = planned("tvvt", "tvt-", numbering="columns", positions=ids).record
    given_ids = torch.full((3, 2, 1), 77)
    new = Columns(torch.ones(2, 1, 1), positions=given_ids, seen=4, record=record)
    plan = proceed(new, "columns")
    assert plan.positions is not None
    assert plan.positions.tolist() == [[[77], [2]]] * 3


def test_a_row_that_ends_in_a_video_token_asks_with_it() -> None:
    plan = planned("tvv", "vvt", inner=(1,))
    _, prompt, _ = columns_of("tvv", "vvt")
    assert prompt.video_asks == [True, False]
    assert prompt.questions == [1, 1]
    assert plan.layout is not None
    assert [own.tolist() for own in plan.layout.visual] == [[1], [3, 4]]


def test_streams_go_with_their_tokens() -> None:
    streams = [torch.arange(100.0, 105)[None, :, None], torch.arange(200.0, 205)[None, :, None]]
    plan = planned("tv.vt", streams=streams)
    assert [stream[:, 0].tolist() for stream in plan.streams] == [[100, 101, 103, 104], [200, 201, 203, 204]]


def test_the_stock_forward_runs_where_every_token_stays() -> None:
    columns, _, placements = columns_of("tvvt", "vvvt")
    assert all(each.is_whole for each in placements)
    assert torch.equal(placed(columns.embeds, placements), columns.embeds)
    assert not columns_of("tv.t")[2][0].is_whole


def test_ids_with_gaps_of_the_callers_own_are_refused_on_one_axis() -> None:
    with pytest.raises(UnsupportedUsageError, match="consecutive"):
        planned("tvvt", positions=torch.tensor([[0, 2, 4, 6]]))


masks = st.none() | st.lists(st.booleans(), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@given(
    starts=st.sets(st.integers(1, 7), max_size=3),
    added=st.lists(st.tuples(st.integers(1, 4), masks), max_size=4),
)
def test_levels_grow_alike_and_shrink_again(starts: set[int], added: list[tuple[int, Any]]) -> None:
    levels = Levels.one(2, None).split(starts)
    assert levels.starts == (0, *sorted(starts))
    assert all(levels.starts[levels.at(layer)] <= layer for layer in range(9))
    grown = levels
    for count, tokens in added:
        mask: Tensor | None = None if tokens is None else torch.tensor(tokens)[:, None].expand(-1, count)
        grown = grown.all_grown(mask, count)
    total = sum(count for count, _ in added)
    assert grown.held == (2 + total,) * len(levels.starts)
    for own in grown.masks:
        assert own is None or own.shape == (2, 2 + total)
    assert grown.cropped(0).held == grown.held if not total else grown.cropped(total).held == levels.held
    assert grown.split(starts) == grown or any(own is not None for own in grown.masks)
