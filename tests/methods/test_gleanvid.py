"""GleanVID's parts against their definitions, written out in numpy and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.videos import clip

from holitom.errors import SettingsError
from holitom.methods import GleanVID
from holitom.methods.gleanvid import debiased, gini
from holitom.ops import blocks, spans
from holitom.ops.ragged import unit_range
from holitom.ops.spans import Cells, Span, past_novelty, principal_directions
from holitom.tokens import VideoTokens


def past_by_definition(series: np.ndarray) -> np.ndarray:
    times, cells, _ = series.shape
    found = np.zeros((times, cells))
    for t in range(times):
        for c in range(cells):
            z, past = series[t, c], series[:t, c]
            left = z @ z
            if past.any():
                gram = past @ past.T
                gram = gram + 1e-4 * np.trace(gram) / t * np.eye(t)
                b = past @ z
                left -= b @ np.linalg.solve(gram, b)
            found[t, c] = np.sqrt(max(0.0, left))
    return found


@pytest.mark.parametrize("workspace", [1 << 26, 200])
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 8), st.booleans(), st.integers(0, 99))
def test_what_a_past_does_not_span(
    workspace: int, times: int, cells: int, width: int, still: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    series = torch.randn(times, cells, width, generator=rng)
    if still:
        series[:] = series[:1] + 0.001 * series
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "WORKSPACE", workspace)
        found = past_novelty(series)
    expected = past_by_definition(series.double().numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def check_interpolated(series: torch.Tensor, rtol: float, atol: float) -> None:
    """Solve four times of `series` and interpolate the others; compare all with the definition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "SOLVED", 4)
        found = past_novelty(series)
    expected = past_by_definition(series.double().numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=atol)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 50), st.sampled_from([1.0, 0.01, 1e-3]))
def test_late_times_are_interpolated_over_the_ridge(times: int, cells: int, width: int, noise: float) -> None:
    """As exact as solving each: for noise, still scenes, and videos that begin dark."""
    rng = torch.Generator().manual_seed(times)
    series = torch.randn(1, cells, width, generator=rng) + noise * torch.randn(
        times, cells, width, generator=rng
    )
    series[: times // 8] *= 0.1
    check_interpolated(series, rtol=1e-4, atol=1e-6)


def test_a_video_that_begins_black_is_interpolated_too() -> None:
    series = torch.randn(40, 2, 9, generator=torch.Generator().manual_seed(0))
    series[:12] = 0
    check_interpolated(series, rtol=1e-3, atol=1e-5)


def test_cells_at_odd_edges_are_smaller() -> None:
    cells = Cells((3, 5), 2, torch.device("cpu"))
    assert cells.size.tolist() == [4, 4, 2, 2, 2, 1]
    features = torch.arange(15.0).view(1, 15, 1)
    means = cells.means(features)
    assert means.flatten().tolist() == [3, 5, 6.5, 10.5, 12.5, 14]
    own = cells.own(means.mT.expand(1, 15, 6))
    assert own.flatten().tolist()[:5] == [3, 3, 5, 5, 6.5]


@pytest.mark.parametrize(("width", "block"), [(5, 1 << 21), (700, 1 << 21), (700, 10_000)])
def test_the_direction_that_all_share_is_taken_out(
    width: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "CACHED", block)
    rng = torch.Generator().manual_seed(0)
    shared = torch.nn.functional.normalize(torch.randn(width, generator=rng), dim=0)
    points = (
        3 * torch.randn(900, 1, generator=rng) * shared + 0.1 * torch.randn(900, width, generator=rng) + 2
    )
    mean, directions = principal_directions(points, 1)
    _, _, v = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    assert abs(float(directions[0] @ v[0])) == pytest.approx(1, abs=1e-4)
    left = debiased(points, mean, directions)
    assert float(((left - mean) @ directions[0]).abs().max()) < 1e-4
    torch.testing.assert_close(left.mean(0), mean, atol=1e-4, rtol=0)


def test_no_direction_where_none_is() -> None:
    mean, directions = principal_directions(torch.ones(6, 4), 1)
    torch.testing.assert_close(debiased(torch.ones(6, 4), mean, directions), torch.ones(6, 4))
    assert principal_directions(torch.ones(6, 4), 0)[1].shape == (0, 4)


@settings(deadline=None, max_examples=40)
@example(counts=[5, 3], width=6, seed=97)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(2, 8), st.integers(0, 99))
def test_a_span_grows_to_all_there_is_and_no_further(counts: list[int], width: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    span, taken = Span(width, torch.device("cpu")), torch.zeros(0, width)
    for count in counts:
        vectors = torch.randn(count, width, generator=rng)
        span.add(span.residual(vectors), 1e-4)
        taken = torch.cat([taken, vectors])
        assert float(span.residual(taken).abs().max()) < 0.02
        probe = torch.randn(5, width, generator=rng)
        basis = torch.linalg.qr(taken.T.double()).Q[:, : min(width, len(taken))]
        expected = probe.double() - probe.double() @ basis @ basis.T
        torch.testing.assert_close(span.residual(probe).double(), expected, atol=0.02, rtol=0)


def test_gini_of_alike_and_of_one() -> None:
    assert gini(np.full(4, 0.25)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 1.0])) == pytest.approx(0.75)
    assert gini(np.ones(1)) == 0
    assert unit_range(torch.tensor([[1.0, 3, 2], [4, 4, 4]])).tolist() == [[0, 1, 0.5], [0, 0, 0]]


def test_repeated_frames_get_less_than_new_ones() -> None:
    scene = clip(2, 16, width=24, change=1.0).features
    features = torch.cat([scene[:1].expand(5, -1, -1), scene[1:].expand(3, -1, -1)])
    merged = GleanVID(0.25).merge(VideoTokens(features, torch.zeros(8, 16), (4, 4)))
    shown = torch.bincount(merged.frame, minlength=8)
    assert set(shown.topk(2).indices.tolist()) == {0, 5}


def test_budgets_are_floored() -> None:
    assert GleanVID(0.29).merged_count(10, 10) == 29  # 0.29 * 100 is a little below 29
    assert GleanVID(0.299).merged_count(10, 10) == 29
    assert GleanVID(0.001).merged_count(10, 10) == 1


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 9),
    st.floats(0.01, 1),
    st.integers(0, 3),
)
def test_any_grid_cell_and_rank(
    frames: int, rows: int, columns: int, width: int, ratio: float, rank: int
) -> None:
    video = clip(frames, rows * columns, width=width)
    method = GleanVID(ratio, rank=rank, cell=1 + rank)
    merged = method.merge(VideoTokens(video.features, video.importance, (rows, columns)))
    assert len(merged.features) == method.merged_count(frames, rows * columns)
    assert bool(((merged.frame * rows * columns + merged.position).diff() > 0).all())


def test_settings() -> None:
    names = ("alpha_min", "alpha_max", "sharpness", "tolerance", "cell", "rank")
    for field in names:
        with pytest.raises(SettingsError, match=field):
            GleanVID(**{field: -1})
    with pytest.raises(SettingsError, match="alpha_max must be"):
        GleanVID(alpha_min=0.7)
