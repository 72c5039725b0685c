"""What is remembered of a static cache, and the ids of embeddings: from values to values, without a model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holitom.runtime.cache import CacheRecord
from holitom.runtime.embedded import ids_of
from holitom.runtime.levels import Levels
from holitom.runtime.static import Constants


def same(one: CacheRecord, other: CacheRecord) -> bool:
    masks = zip(one.levels.masks, other.levels.masks, strict=True)
    return (
        (one.seen, one.tail, one.levels.starts, one.levels.held)
        == (other.seen, other.tail, other.levels.starts, other.levels.held)
        and torch.equal(one.position, other.position)
        and all(a is b if a is None or b is None else torch.equal(a, b) for a, b in masks)
    )


@st.composite
def records(draw: st.DrawFn) -> CacheRecord:
    rows, levels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    held = sorted(draw(st.lists(st.integers(1, 12), min_size=levels, max_size=levels)), reverse=True)
    masks = [
        torch.tensor([[draw(st.booleans()) for _ in range(columns)] for _ in range(rows)])
        if draw(st.booleans())
        else None
        for columns in held
    ]
    return CacheRecord(
        seen=held[0] + draw(st.integers(0, 9)),
        position=torch.tensor(draw(st.lists(st.integers(0, 30), min_size=rows, max_size=rows))),
        numbered=None,
        levels=Levels(tuple(range(levels)), tuple(held), tuple(masks)),
        tail=draw(st.integers(0, held[-1])),
    )


@settings(max_examples=60, deadline=None)
@given(record=records(), data=st.data(), steps=st.integers(0, 5))
def test_text_changes_nothing_of_what_is_remembered(
    record: CacheRecord, data: st.DataObject, steps: int
) -> None:
    """The record after some steps of text is told by the count alone, whichever level it is the count of."""
    level = data.draw(st.integers(0, len(record.levels.held) - 1))
    allocated = [held + 6 for held in record.levels.held]
    kept = Constants.of(record, level, allocated)
    count = record.levels.held[level]
    assert same(kept.record(count), record)
    later = CacheRecord(
        seen=record.seen + steps,
        position=record.position + steps,
        numbered=None,
        levels=record.levels.all_grown(None, steps),
        tail=record.tail + steps,
    )
    assert same(kept.record(count + steps), later)
    back = Constants.of(later, level, allocated)
    assert (back.gone, back.fewer, back.floor) == (kept.gone, kept.fewer, kept.floor)
    assert torch.equal(back.offset, kept.offset)
    rows = torch.tensor([len(record.position) - 1])
    assert same(kept.select(rows).record(count), record.select(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ids_are_found_by_their_embeddings(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(5000, 24, dtype=dtype)  # more than one chunk
    with torch.no_grad():
        table.weight[7] = table.weight[3]  # of equal ones the first
        table.weight[9] = 0.0
        ids = torch.tensor([[4999, 7, 0], [9, 4096, 12]])
        embeds = table(ids)
        assert ids_of(embeds, table).tolist() == [[4999, 3, 0], [9, 4096, 12]]
        embeds[0, 0, 5] += 1  # a soft prompt
        embeds[1, 0] = -0.0
        assert ids_of(embeds, table).tolist() == [[0, 3, 0], [9, 4096, 12]]
