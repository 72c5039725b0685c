"""Attention from packed rows is attention over whole stretches, at the rows that are computed."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holitom.tower.packing import Packing


def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 12), min_size=1, max_size=9),
    st.integers(1, 20),
    st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_each_computed_token_attends_to_the_tokens_of_its_stretch(
    seed: int, lengths: list[int], groups: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    # A first copy of all stretches is computed; the others take some tokens from it.
    tokens = sum(lengths)
    order = rng.permutation(tokens)
    computed = np.concatenate([np.ones(tokens), rng.random(groups * tokens) < share]).astype(np.bool_)
    place = np.arange(len(computed))
    source = np.where(computed, place, place % tokens)
    packing = Packing.of(computed, source, torch.device("cpu"))
    stretches: dict[int, list[np.ndarray]] = {}
    for copy in range(groups + 1):
        for own in np.split(order, np.cumsum(lengths)[:-1]):
            stretches.setdefault(len(own), []).append(copy * tokens + own)
    generator = torch.Generator().manual_seed(seed)
    heads, width = 2, 4
    query, key, value = (torch.randn(len(packing.at), heads, width, generator=generator) for _ in range(3))
    found = packing.stretches([np.stack(own) for own in stretches.values()]).attend(query, key, value, kernel)
    expected = torch.empty(len(packing.at), heads * width)
    for own in (one for alike in stretches.values() for one in alike):
        stands = torch.from_numpy(packing.rows[own])
        rows = torch.from_numpy(packing.rows[own[computed[own]]])
        whole = (query[rows], key[stands], value[stands])
        q, k, v = (x.transpose(0, 1)[None] for x in whole)
        expected[rows] = kernel(q, k, v)[0].flatten(1)
    torch.testing.assert_close(found, expected)


def test_packing_and_filling_undo_each_other() -> None:
    computed = np.array([True, True, True, False, True, False])
    source = np.array([0, 1, 2, 0, 4, 2])
    packing = Packing.of(computed, source, torch.device("cpu"))
    tokens = torch.tensor([10.0, 11, 12, 10, 14, 12])[:, None]
    assert packing.pack(tokens)[:, 0].tolist() == [10, 11, 12, 14]
    assert torch.equal(packing.fill(packing.pack(tokens)), tokens)
