"""Merging in closed form equals merging one token after another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from holitom.ops.merging import merge_into_most_similar, most_attended


def one_after_another(hidden: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    merged = hidden.double().clone()
    for j in dropped.tolist():
        similarity = F.cosine_similarity(hidden[kept].double(), hidden[j].double()[None], dim=-1)
        i = int(kept[similarity.argmax()])
        merged[i] = (merged[i] + merged[j]) / 2
    return merged[kept]


@pytest.mark.parametrize(("visual", "keep"), [(1, 1), (2, 1), (30, 15), (64, 5), (40, 40)])
def test_equals_the_sequential_merge(visual: int, keep: int) -> None:
    rng = torch.Generator().manual_seed(visual)
    hidden = torch.randn(visual, 16, generator=rng)
    kept, dropped = most_attended(torch.rand(visual, generator=rng), keep)
    merged = merge_into_most_similar(hidden, kept, dropped)
    torch.testing.assert_close(merged, one_after_another(hidden, kept, dropped).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_thousands_that_join_one_token_do_no_harm(dtype: torch.dtype) -> None:
    hidden = torch.rand(3000, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept, dropped = torch.tensor([7]), torch.tensor([n for n in range(3000) if n != 7])
    merged = merge_into_most_similar(hidden, kept, dropped)
    assert merged.dtype == dtype
    expected = one_after_another(hidden, kept, dropped).to(dtype)
    torch.testing.assert_close(merged, expected)


def test_the_most_attended_stay_and_the_first_of_equals_too() -> None:
    kept, dropped = most_attended(torch.tensor([0.2, 0.5, 0.2, 0.1, 0.2]), 3)
    assert kept.tolist() == [0, 1, 2]
    assert dropped.tolist() == [3, 4]


def test_keeping_none_leaves_none() -> None:
    hidden = torch.randn(3, 4)
    kept, dropped = most_attended(torch.rand(3), 0)
    assert merge_into_most_similar(hidden, kept, dropped).shape == (0, 4)
