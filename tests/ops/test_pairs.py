"""Products of points with one another, computed in parts, are those of one multiplication."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holitom.ops import blocks as module
from holitom.ops import pairs
from holitom.ops.blocks import blocks
from holitom.ops.pairs import cosine_gram, gram
from holitom.ops.similarity import cosines, inverse_lengths


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_bands_of_rows_give_all_products(groups: int, count: int, width: int, band: int, seed: int) -> None:
    points = torch.randn(groups, count, width, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("WIDE", 1), ("BANDED", 0), ("BAND", band)):
            patch.setattr(pairs, name, value)
        found, alone = gram(points), gram(points[0])
    torch.testing.assert_close(found, points @ points.mT)
    torch.testing.assert_close(alone, points[0] @ points[0].T)


def test_large_groups_are_computed_in_bands() -> None:
    """As many products as of LLaVA-OneVision's frames: a symmetric result, with a tenth of its width."""
    points = torch.randn(1, 500, 600, generator=torch.Generator().manual_seed(0))
    assert points.shape[1] ** 2 * points.shape[2] >= pairs.BANDED
    found = gram(points)
    torch.testing.assert_close(found, points @ points.mT, atol=1e-3, rtol=1e-4)
    assert torch.equal(found[0, :48, 448:], found[0, 448:, :48].T)


def test_cosines_of_what_is_zero_or_not_finite_are_zero() -> None:
    points = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.cosine_similarity(points[:, :, None], points[:, None], dim=-1)
    points[0, 1], points[0, 2, 3], points[1, 4, 0], points[1, 0] = 0, math.nan, -math.inf, 1e30
    bad = torch.zeros(2, 6, dtype=torch.bool)
    bad[[0, 0, 1, 1], [1, 2, 4, 0]] = True
    expected = expected.masked_fill(bad[:, :, None] | bad[:, None], 0)
    torch.testing.assert_close(cosine_gram(points), expected)
    inverse = inverse_lengths(points)
    assert torch.equal(inverse == 0, bad)
    torch.testing.assert_close(cosines(points @ points.mT, inverse, inverse), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_lengths_are_those_of_float32(dtype: torch.dtype) -> None:
    points = (100 * torch.randn(7, 33, generator=torch.Generator().manual_seed(0))).to(dtype)
    torch.testing.assert_close(inverse_lengths(points), 1 / points.float().norm(dim=-1))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 200))
def test_blocks_hold_every_row_once(rows: int, width: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CACHED", size)
        found = list(blocks(rows, width, torch.device("cpu")))
    assert [row for some in found for row in range(some.start, some.stop)] == list(range(rows))
    assert all((some.stop - some.start) * width <= max(size, width) for some in found)
