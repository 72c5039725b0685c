"""SimpleCluster: positions turned into features, and k-means as it is defined, one token at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip
from torch import Tensor

from holitom.errors import SettingsError
from holitom.methods import SimpleCluster
from holitom.methods.simplecluster import turned
from holitom.ops import kmeans, pairs
from holitom.ops.kmeans import cosine_kmeans
from holitom.tokens import VideoTokens


def by_definition(unit: Tensor, count: int, rounds: int) -> list[int]:
    """The cluster of each token, in float64 and in plain loops."""
    points = unit.double()
    seeds, best = [0], points @ points[0]
    for _ in range(count - 1):
        seeds.append(int(best.argmin()))
        best = best.maximum(points @ points[seeds[-1]])
    prototypes = points[seeds].clone()
    for _ in range(rounds):
        best, owner = (points @ prototypes.T).max(1)
        for cluster in range(count):
            members = points[owner == cluster]
            if len(members):
                mean = members.mean(0)
                prototypes[cluster] = mean / mean.norm().clamp_min(1e-6)
            else:
                token = int(best.argmin())
                prototypes[cluster], best[token] = points[token], 1
    best, owner = (points @ prototypes.T).max(1)
    for cluster in range(count):
        if not (owner == cluster).any():
            size = torch.bincount(owner, minlength=count)
            token = int(torch.where(size[owner] > 1, best, torch.inf).argmin())
            owner[token] = cluster
    return owner.tolist()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.02, 1), st.integers(1, 10), st.integers(0, 999))
def test_kmeans_is_its_definition(tokens: int, width: int, share: float, rounds: int, seed: int) -> None:
    points = torch.randn(tokens, width + 1, generator=torch.Generator().manual_seed(seed))
    unit = torch.nn.functional.normalize(points, dim=-1)
    count = max(1, round(share * tokens))
    assert cosine_kmeans(unit, count, rounds).tolist() == by_definition(unit, count, rounds)


@pytest.mark.parametrize("seed", range(5))
def test_little_memory_gives_the_same_clusters(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    video = clip(6, 12, change=0.5, seed=seed)
    whole = SimpleCluster(0.2).merge(video)
    monkeypatch.setattr(pairs, "WHOLE", 0)
    monkeypatch.setattr(kmeans, "WORKSPACE", 50)
    by_rows = SimpleCluster(0.2).merge(video)
    assert torch.equal(whole.frame, by_rows.frame)
    assert torch.equal(whole.position, by_rows.position)
    assert torch.equal(whole.size, by_rows.size)


def test_every_cluster_has_a_token_where_all_are_equal() -> None:
    # All similarities are 1, so all join the first of four; the others then take the first tokens, in order.
    owner = cosine_kmeans(torch.tensor([[1.0, 0.0]]).expand(6, -1), 4, 3)
    assert (
        owner.tolist() == by_definition(torch.tensor([[1.0, 0.0]]).expand(6, -1), 4, 3) == [1, 2, 3, 0, 0, 0]
    )


def test_channels_turn_by_frame_row_and_column() -> None:
    features = torch.zeros(2, 6, 9)  # blocks of 3, 3 and 3 channels: one pair each, and one that stays
    features[..., 0] = features[..., 3] = features[..., 6] = 1
    features[..., 2] = 5
    seen = turned(features, (2, 3), 10000.0)
    for frame in range(2):
        for row in range(2):
            for column in range(3):
                token = seen[frame, 3 * row + column]
                expected = [math.cos(frame), math.sin(frame), 5, math.cos(row), math.sin(row), 0]
                expected += [math.cos(column), math.sin(column), 0]
                torch.testing.assert_close(token, torch.tensor(expected))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 20), st.integers(0, 99))
def test_turning_keeps_lengths_and_the_first_place(
    frames: int, rows: int, columns: int, width: int, seed: int
) -> None:
    video = clip(frames, rows * columns, width=width, seed=seed)
    before = video.features.clone()
    seen = turned(video.features, (rows, columns), 10000.0)
    assert torch.equal(video.features, before)  # not in place
    torch.testing.assert_close(seen.norm(dim=-1), before.norm(dim=-1))
    torch.testing.assert_close(seen[0, 0], before[0, 0])


def test_means_are_of_features_that_are_not_turned() -> None:
    # Two places, each still for three frames: two clusters, each at its first place.
    # Of nine channels the third of each block stays; the second token turns a little, with its column.
    features = torch.tensor([[0, 0, 1.0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0.2, 0, 0]]).expand(3, -1, -1)
    merged = SimpleCluster(2 / 6).merge(VideoTokens(features, torch.zeros(3, 2), (1, 2)))
    assert merged.frame.tolist() == [0, 0]
    assert merged.size.tolist() == [3, 3]
    torch.testing.assert_close(merged.features, features[0])


def test_settings() -> None:
    for field in ("iterations", "rope_theta"):
        with pytest.raises(SettingsError, match=field):
            SimpleCluster(**{field: 0})
