"""Shares add up to the token."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from holitom.ops.budgets import apportion, exact_total, largest_remainder


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.data())
def test_shares_are_exact_and_proportional(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(sizes)))
    shares = largest_remainder(np.array(sizes, dtype=np.int64), total)
    assert shares.sum() == total
    for size, share in zip(sizes, shares.tolist(), strict=True):
        assert 0 <= share <= size
        assert abs(share - size * total / max(1, sum(sizes))) < 1


def test_the_first_of_equal_fractions_gets_the_rest() -> None:
    assert largest_remainder(np.array([3, 3, 3]), 4).tolist() == [2, 1, 1]
    assert largest_remainder(np.array([1, 0, 9, 0]), 5).tolist() == [1, 0, 4, 0]


def test_budget_that_a_group_cannot_use_goes_to_the_other_groups() -> None:
    caps = np.array([6, 6, 6])
    assert apportion(np.array([2 / 3, 2 / 3, 5 / 3]), 9, caps).tolist() == [2, 2, 5]
    assert apportion(np.array([2 / 3, 2 / 3, 5 / 3]), 16, caps).tolist() == [5, 5, 6]
    assert apportion(np.array([1.0, 3, 9]), 18, caps).tolist() == [6, 6, 6]
    assert apportion(np.array([1.0, 1, 1]), 5, caps).tolist() == [2, 2, 1]  # remainders to the first
    assert exact_total(0.1, 4, 9) == 4  # 3.6
    assert exact_total(0.001, 4, 9) == 1
