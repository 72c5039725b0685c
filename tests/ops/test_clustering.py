"""Batched DPC-KNN equals its definition, written out for one group at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from holitom.ops import clustering
from holitom.ops.clustering import dpc_knn, join_most_similar


def by_definition(group: Tensor, budget: int, knn: int, weight: float) -> tuple[list[int], Tensor, list[int]]:
    """Centres, merged features and cluster sizes of one group, in float64 and in plain loops."""
    points = group.double()
    count, width = points.shape
    distance = (points[:, None] - points[None]).norm(dim=-1) / width**0.5
    k = min(knn, budget)
    density = [float(torch.exp(-(row.square().sort().values[:k].mean()))) for row in distance]
    score = []
    for i in range(count):
        denser = [j for j in range(count) if (density[j], -j) > (density[i], -i)]
        delta = min(distance[i, j] for j in denser) if denser else distance.max()
        score.append(density[i] * float(delta))
    centers = sorted(sorted(range(count), key=lambda i: (-score[i], i))[:budget])
    joined: dict[int, list[int]] = {center: [] for center in centers}
    for i in range(count):
        if i not in joined:
            joined[min(centers, key=lambda center: float(distance[i, center]))].append(i)
    merged = [
        weight * points[c] + (1 - weight) * points[others].mean(0) if others else points[c]
        for c, others in joined.items()
    ]
    return centers, torch.stack(merged), [1 + len(others) for others in joined.values()]


def check(tokens: Tensor, sizes: np.ndarray, budgets: np.ndarray, knn: int, weight: float) -> None:
    clusters = dpc_knn(tokens, sizes, budgets, knn=knn, center_weight=weight)
    centers, features, size, first = [], [], [], 0
    for count, budget in zip(sizes.tolist(), budgets.tolist(), strict=True):
        c, f, s = by_definition(tokens[first : first + count], budget, knn, weight)
        centers += [first + i for i in c]
        features.append(f)
        size += s
        first += count
    assert clusters.centers.tolist() == centers
    assert clusters.size.tolist() == size
    torch.testing.assert_close(clusters.features.double(), torch.cat(features), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(25))
def test_groups_of_any_size_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 24, int(rng.integers(1, 7)))
    budgets = np.array([rng.integers(1, size + 1) for size in sizes])
    tokens = torch.from_numpy(rng.normal(size=(sizes.sum(), 12)).astype(np.float32))
    check(tokens, sizes, budgets, knn=int(rng.integers(1, 9)), weight=0.6)


@pytest.mark.parametrize("seed", range(25))
def test_repeated_tokens_are_told_apart_by_index(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 16, 4)
    budgets = np.array([rng.integers(1, size + 1) for size in sizes])
    tokens = torch.from_numpy(rng.integers(0, 2, size=(sizes.sum(), 4)).astype(np.float32))
    check(tokens, sizes, budgets, knn=3, weight=0.25)


def test_identical_tokens_merge_into_the_first() -> None:
    clusters = dpc_knn(torch.ones(6, 5), np.array([6]), np.array([2]))
    assert clusters.centers.tolist() == [0, 1]
    assert clusters.size.sum() == 6
    torch.testing.assert_close(clusters.features, torch.ones(2, 5))


def test_as_many_centers_as_tokens_changes_nothing() -> None:
    tokens = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    clusters = dpc_knn(tokens, np.array([4, 5]), np.array([4, 5]))
    assert torch.equal(clusters.features, tokens)
    assert clusters.size.tolist() == [1] * 9


def test_little_memory_gives_the_same_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sizes, budgets = np.array([5, 17, 9, 12]), np.array([2, 6, 9, 1])
    tokens = torch.from_numpy(rng.normal(size=(43, 8)).astype(np.float32))
    whole = dpc_knn(tokens, sizes, budgets)
    monkeypatch.setattr(clustering, "WORKSPACE", 1)
    piecewise = dpc_knn(tokens, sizes, budgets)
    assert torch.equal(whole.centers, piecewise.centers)
    torch.testing.assert_close(whole.features, piecewise.features)


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_unlike_sizes_are_padded_apart(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "COSTLY", 0)
    rng = np.random.default_rng(seed)
    sizes = np.array([2, 40, 9, 1, 21, 11, 39, 3])
    classes = [alike.tolist() for alike in clustering._size_classes(sizes, 12)]
    assert classes == [[1, 4, 6], [5], [0, 2, 3, 7]]
    budgets = np.array([rng.integers(1, size + 1) for size in sizes])
    tokens = torch.from_numpy(rng.normal(size=(sizes.sum(), 12)).astype(np.float32))
    check(tokens, sizes, budgets, knn=4, weight=0.6)


def test_plain_means_of_clusters() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [50.0], [52.0]])
    clusters = dpc_knn(points, np.array([5]), np.array([2]), center_weight=None)
    assert clusters.features.flatten().tolist() == [1.0, 51.0]
    assert clusters.owner.tolist() == [0, 0, 0, 1, 1]


def test_joining_the_most_similar_head_of_the_group() -> None:
    angle = torch.deg2rad(torch.tensor([0.0, 10, 80, 90, 0, 60, 85]))
    tokens = torch.stack([angle.cos(), angle.sin()], dim=-1) * torch.arange(1.0, 8)[:, None]
    heads = torch.tensor([0, 3, 4])  # of groups of 4 and 3 tokens; 0 degrees of the other group is no offer
    sizes, counts = np.array([4, 3]), np.array([2, 1])
    assert join_most_similar(tokens, sizes, heads, counts).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert join_most_similar(torch.zeros(7, 2), sizes, heads, counts).tolist() == [0, 0, 0, 1, 2, 2, 2]
