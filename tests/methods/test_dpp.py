"""DPP: the greedy choice is the one that raises the determinant most."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import of_angles
from torch import Tensor

from holitom.errors import SettingsError
from holitom.methods import DPP
from holitom.methods.dpp import likeliest


def by_determinants(kernel: Tensor, count: int) -> list[int]:
    picks: list[int] = []
    for _ in range(count):
        gains = {}
        for token in range(len(kernel)):
            if token not in picks:
                some = [*picks, token]
                gains[token] = float(torch.linalg.det(kernel[some][:, some].double()))
        picks.append(max(gains, key=lambda token: gains[token]))
    return picks


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_each_pick_raises_the_determinant_most(tokens: int, count: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(2, tokens, 12, generator=rng)
    kernel = root @ root.mT
    count = min(count, tokens)
    found = likeliest(kernel, count)
    assert found.tolist() == [by_determinants(group, count) for group in kernel]


def test_what_is_spanned_already_comes_last() -> None:
    kernel = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0.01]])[None]
    assert likeliest(kernel, 3).tolist() == [[0, 2, 1]]
    assert likeliest(torch.zeros(1, 3, 3), 3).tolist() == [[0, 1, 2]]


def test_quality_weighs_against_likeness() -> None:
    video = of_angles([[0, 5, 90, 180]], importance=[[1.0, 0.9, 0.5, 0]])
    assert DPP(0.5).merge(video).position.tolist() == [0, 2]
    # alike but important beats unlike and worthless
    video = of_angles([[0, 40, 90]], importance=[[1.0, 0.9, 0.0]])
    assert DPP(2 / 3).merge(video).position.tolist() == [0, 1]


def test_equal_importance_ranks_by_likeness_alone() -> None:
    video = of_angles([[0, 10, 90, 45]], importance=[[0.3] * 4])
    assert DPP(0.5).merge(video).position.tolist() == [0, 2]
    with pytest.raises(SettingsError, match="floor"):
        DPP(floor=0)
