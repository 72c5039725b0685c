"""Groups of unequal size give what a loop over them gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holitom.ops.ragged import compact, gather_bags, run_means, top_mask


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_compact_finds_what_nonzero_finds(chance: float) -> None:
    mask = torch.rand(13, 29, generator=torch.Generator().manual_seed(0)) < chance
    expected = mask.flatten().nonzero()[:, 0]
    assert compact(mask, len(expected)).tolist() == expected.tolist()


def test_every_row_keeps_its_own_number_of_highest_scores() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        groups, tokens = int(rng.integers(1, 6)), int(rng.integers(1, 9))
        score = rng.integers(0, 4, (groups, tokens)).astype(np.float32)  # many ties
        budget = rng.integers(0, tokens + 1, groups)
        mask = top_mask(torch.from_numpy(score), torch.from_numpy(budget)[:, None])
        for row, kept, count in zip(score, mask, budget, strict=True):
            ranked = sorted(range(tokens), key=lambda n: (-row[n], n))
            assert kept.nonzero()[:, 0].tolist() == sorted(ranked[:count])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_of_strided_runs(dtype: torch.dtype) -> None:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    first, lengths = [0, 3, 4, 39], [10, 1, 9, 1]
    means, averaged = run_means(rows, torch.tensor(first), np.array(lengths), stride=4)
    assert averaged.tolist() == lengths
    assert means.dtype == dtype
    for mean, start, length in zip(means, first, lengths, strict=True):
        expected = rows[start : start + 4 * length : 4].float().mean(0).to(dtype)
        torch.testing.assert_close(mean, expected)


def test_means_of_scaled_rows() -> None:
    rows, scale = torch.arange(1.0, 9)[:, None], torch.tensor([1.0, 0, 2, 0, 3, 0, 4, 1])
    means, averaged = run_means(rows, torch.tensor([0, 1]), np.array([4, 2]), stride=2, scale=scale)
    assert averaged.tolist() == [4, 2]
    assert means[:, 0].tolist() == [(1 + 6 + 15 + 28) / 4, 0]


def test_means_leave_out_skipped_rows() -> None:
    rows, skip = torch.arange(12.0)[:, None], torch.zeros(12, dtype=torch.bool)
    skip[[2, 4, 11]] = True
    means, averaged = run_means(rows, torch.tensor([0, 3]), np.array([6, 3]), 2, skip, skipped=3 - 1)
    assert averaged.tolist() == [4, 3]
    assert means[:, 0].tolist() == [(0 + 6 + 8 + 10) / 4, (3 + 5 + 7) / 3]


def test_bags_hold_the_head_and_then_those_that_joined_by_index() -> None:
    heads, owner = torch.tensor([1, 4, 5]), torch.tensor([1, 0, 1, 0, 1, 2, 1])
    bags = gather_bags(heads, owner)
    assert bags.member.tolist() == [1, 3, 4, 0, 2, 6, 5]
    assert bags.rank.tolist() == [0, 1, 0, 1, 2, 3, 0]
    assert bags.size.tolist() == [2, 2, 4, 4, 4, 4, 1]
    assert bags.count.tolist() == [2, 4, 1]
    assert bags.start.tolist() == [0, 2, 6]
