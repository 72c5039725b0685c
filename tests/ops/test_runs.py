"""Runs against one position after another, frame after frame."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holitom.ops.runs import average_runs, comes_and_goes, frame_similarity, run_heads

shape = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(0, 10_000))


def similarities(frames: int, tokens: int, seed: int) -> Tensor:
    """Few different values, so that ties are met."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 6, (frames - 1, tokens), generator=rng) / 5


@given(shape, st.sampled_from([-1.0, 0.2, 0.5, 0.8, 2.0]), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_run_begins_where_a_token_is_no_repeat(
    size: tuple[int, int, int], threshold: float, share: float
) -> None:
    frames, tokens, _ = size
    similarity = similarities(*size)
    least = round(share * frames * tokens)
    heads, count = run_heads(similarity, threshold, least)
    begins = torch.cat([torch.ones(1, tokens, dtype=torch.bool), similarity <= threshold])
    assert count == int(heads.sum()) == max(int(begins.sum()), least)
    assert bool(heads[begins].all())
    added, repeats = (heads & ~begins)[1:], ~heads[1:]
    if added.any() and repeats.any():  # none that is left is less similar than one that was broken off
        assert similarity[added].max() <= similarity[repeats].min()
    if least <= int(begins.sum()):
        assert torch.equal(heads, begins)


@given(shape, st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_averages_are_those_of_each_run(size: tuple[int, int, int], chance: float) -> None:
    frames, tokens, seed = size
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(frames, tokens, 3, generator=rng)
    importance = torch.rand(frames, tokens, generator=rng)
    heads = torch.rand(frames, tokens, generator=rng) < chance
    heads[0] = True
    runs = average_runs(rows.flatten(0, 1), importance, heads, int(heads.sum()))
    assert torch.equal(runs.at, heads.flatten().nonzero().squeeze(1))
    for at, mean, score, length in zip(runs.at, runs.means, runs.importance, runs.size, strict=True):
        t, n = divmod(int(at), tokens)
        end = next((later for later in range(t + 1, frames) if heads[later, n]), frames)
        assert int(length) == end - t
        torch.testing.assert_close(mean, rows[t:end, n].mean(0))
        torch.testing.assert_close(score, importance[t:end, n].mean())
    assert int(runs.size.sum()) == frames * tokens


def test_runs_of_one_frame_are_the_tokens_themselves() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.randn(12, 5).to(dtype)
        runs = average_runs(rows, torch.rand(4, 3), torch.ones(4, 3, dtype=torch.bool), 12)
        assert torch.equal(runs.means, rows)


def test_by_hand() -> None:
    """Two positions, four frames: the first breaks once, the second never."""
    similarity = torch.tensor([[0.9, 0.95], [0.1, 0.9], [0.9, 0.85]])
    heads, count = run_heads(similarity, 0.8, least=1)
    assert heads.long().tolist() == [[1, 1], [0, 0], [1, 0], [0, 0]]
    assert count == 3
    heads, count = run_heads(similarity, 0.8, least=5)  # the least similar repeats, the earlier of equals
    assert heads.long().tolist() == [[1, 1], [1, 0], [1, 0], [0, 1]]
    assert count == 5


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_similarity_between_frames_is_that_of_each_pair(
    frames: int, tokens: int, width: int, seed: int
) -> None:
    features = torch.randn(frames, tokens, width, generator=torch.Generator().manual_seed(seed))
    features[0, 0] = 0
    similarity = frame_similarity(features)
    assert similarity.shape == (frames - 1, tokens, tokens)
    for t in range(frames - 1):
        expected = torch.cosine_similarity(features[t, :, None], features[t + 1, None], dim=-1)
        torch.testing.assert_close(similarity[t], expected, atol=1e-5, rtol=1e-5)


def test_a_moving_token_neither_appears_nor_disappears() -> None:
    """By hand: 0 degrees moves from the first position to the second; 90 goes, and 180 comes."""
    angle = torch.deg2rad(torch.tensor([[0.0, 90.0], [180.0, 0.0]]))
    comes, goes = comes_and_goes(frame_similarity(torch.stack([angle.cos(), angle.sin()], -1)))
    torch.testing.assert_close(comes, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(goes, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
