"""FastVID by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.videos import clip, of_angles
from torch import Tensor
from torch.testing import assert_close

from holitom.errors import SettingsError
from holitom.methods import FastVID
from holitom.ops.segmentation import cut_scenes
from holitom.tokens import VideoTokens


def test_cuts() -> None:
    """One token a frame: similarities cos 10, cos 50, cos 0, cos 20, cos 40."""
    features = of_angles([[0], [10], [60], [60], [80], [120]]).features
    assert cut_scenes(features, 0.9, 1) == [(0, 1), (2, 4), (5, 5)]  # cos 20 is 0.94, cos 40 is 0.77
    assert cut_scenes(features, 0.9, 4) == [(0, 1), (2, 3), (4, 4), (5, 5)]
    assert cut_scenes(features, -1, 2) == [(0, 1), (2, 5)]
    assert len(cut_scenes(features, -1, 8)) == 6


def test_what_each_frame_spends() -> None:
    method = FastVID(anchor_stride=4)
    # Segments of 6 and 1 frames, 10 tokens a frame: c = round(60 * 0.4) = 24 anchors in frames 1 and 5
    # (the last, and 4 before it), 4 from each frame's budget; round(10 * 0.4) = 4 in the frame alone.
    salient, anchors = method._plan(np.array([6, 1]), np.full(7, 10), 40)
    assert salient.tolist() == [6] * 7
    assert anchors.tolist() == [0, 12, 0, 0, 0, 12, 4]
    # Of 17 tokens 12 anchors and 6 salient ones would be too many: 9 anchors, and 3 from each frame's budget.
    salient, anchors = method._plan(np.array([6]), np.full(6, 10), 17)
    assert (salient.tolist(), anchors.tolist()) == ([7] * 6, [0, 9, 0, 0, 0, 9])


def test_one_segment_by_hand() -> None:
    video = of_angles(
        [[0, 40, 50, 90], [2, 44, 52, 91]], importance=[[0.0, 0.9, 0.0, 0.0], [0.0, 0.9, 0.0, 0.0]]
    )
    # r = 1/2: 4 tokens, half of them anchors: one salient token a frame, position 1; the last frame's others,
    # at 2, 52 and 91 degrees, offer two anchors. With k = 2 their densities are by their nearest neighbours:
    # 52 has 91 at 39 degrees (and so has 91 it), 2 has 52 at 50. Densest is 52 (of equals the first), and its
    # delta is the largest distance of all. Of the others 2 has the larger delta, but the smaller density:
    # squared distances / 2 are 1 - cos 39 = 0.223 and 1 - cos 50 = 0.357, so density * delta is
    # exp(-0.223 / 2) * sqrt(0.223) = 0.422 for 91 and exp(-0.357 / 2) * sqrt(0.357) = 0.500 for 2.
    merged = FastVID(0.5, min_segments=1, anchor_ratio=0.5).merge(video)
    assert merged.segments == [(0, 1)]
    places = list(zip(merged.frame.tolist(), merged.position.tolist(), merged.size.tolist(), strict=True))
    # Frame 0's 0 joins 2; its 50 and 90, and frame 1's 91, join 52.
    assert places == [(0, 1, 1), (1, 1, 1), (1, 0, 2), (1, 2, 4)]
    x = video.features
    assert_close(merged.features[2], 0.6 * x[1, 0] + 0.4 * x[0, 0])
    assert_close(merged.features[3], 0.6 * x[1, 2] + 0.4 * (x[0, 2] + x[0, 3] + x[1, 3]) / 3)


def test_an_anchor_that_few_join_is_their_mean() -> None:
    video = of_angles([[0, 10, 20, 30]])
    merged = FastVID(0.25, anchor_ratio=1.0, anchor_weight=0.0).merge(video)  # w = 1 / (1 + 3)
    assert_close(merged.features[0], video.features[0].mean(0))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("ratio", [0.03, 0.2, 0.55, 0.9, 0.97, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("frames", "tokens"), [(32, 16), (9, 5), (30, 3), (4, 1)])
def test_any_split_meets_the_budget(
    stride: int, ratio: float, share: float, frames: int, tokens: int
) -> None:
    method = FastVID(ratio, anchor_stride=stride, anchor_ratio=share, min_segments=2)
    merged = method.merge(clip(frames, tokens, change=0.2))
    assert len(merged.features) == max(1, round(ratio * frames * tokens))
    assert len((merged.frame * tokens + merged.position).unique()) == len(merged.frame)
    assert merged.features.isfinite().all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_segments", 0), ("anchor_ratio", 1.1), ("anchor_stride", 0), ("anchor_weight", -1), ("knn", 0.5)],
)
def test_settings(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=field):
        FastVID(**{field: value})
    with pytest.raises(SettingsError, match="cut_threshold"):
        FastVID(cut_threshold=-2)
    assert torch.is_tensor(FastVID().merge(clip(1, 1)).features)


def by_definition(video: VideoTokens, method: FastVID) -> tuple[list[int], Tensor]:
    """Steps 2 to 4 in plain loops, for segments, salient tokens and anchors as `merge` found them."""
    frames, tokens, _ = video.features.shape
    merged = method.merge(video)
    segments = merged.segments
    length = np.array([last - first + 1 for first, last in segments])
    budget = np.full(frames, tokens * method.retain_ratio).astype(np.int64)
    salient, anchors = method._plan(length, budget, tokens)
    at, order = (merged.frame * tokens + merged.position).sort()
    x = video.features.double()
    rows = {}
    for first, last in segments:
        chosen = {
            t: set(video.importance[t].topk(int(salient[t])).indices.tolist()) for t in range(first, last + 1)
        }
        for t in range(first, last + 1):
            rows.update({t * tokens + n: x[t, n] for n in chosen[t]})
        rest = [(t, n) for t in chosen for n in range(tokens) if n not in chosen[t]]
        for t in range(first, last + 1):
            assert ((last - t) % method.anchor_stride == 0) == (anchors[t] > 0)
            mine = [n for n in range(tokens) if t * tokens + n in at.tolist() and n not in chosen[t]]
            assert len(mine) == anchors[t]
            joined: dict[int, list[Tensor]] = {n: [] for n in mine}
            for s, n in rest:
                if mine and not (s == t and n in mine):
                    similarity = torch.cosine_similarity(x[t, mine], x[s, n][None], dim=-1)
                    joined[mine[int(similarity.argmax())]].append(x[s, n])
            for n, those in joined.items():
                weight = max(method.anchor_weight, 1 / (1 + len(those)))
                mean = torch.stack(those).mean(0) if those else x[t, n]
                rows[t * tokens + n] = weight * x[t, n] + (1 - weight) * mean
    return sorted(rows), torch.stack([rows[place] for place in sorted(rows)]) - merged.features[order]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stride", [1, 3, 4])
def test_every_anchor_frame_takes_in_every_token(seed: int, stride: int) -> None:
    video = clip(13, 10, change=0.3, seed=seed)
    method = FastVID(0.4, min_segments=3, anchor_stride=stride, anchor_ratio=0.5)
    places, difference = by_definition(video, method)
    assert len(places) == 52
    assert float(difference.abs().max()) < 1e-5


def test_what_is_left_of_the_anchors_goes_to_the_last_anchor_frames() -> None:
    # 40 of 10 frames' 100 tokens are anchors, in frames 1, 5 and 9: 13, 13 and 14.
    salient, anchors = FastVID(anchor_stride=4)._plan(np.array([10]), np.full(10, 10), 40)
    assert anchors.tolist() == [0, 13, 0, 0, 0, 13, 0, 0, 0, 14]
    assert salient.tolist() == [6] * 10


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 14),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_any_budget_is_met(
    frames: int, tokens: int, change: float, ratio: float, share: float, stride: int, segments: int, seed: int
) -> None:
    method = FastVID(ratio, anchor_ratio=share, anchor_stride=stride, min_segments=segments)
    video = clip(frames, tokens, change=change, seed=seed)
    merged = method.merge(video)
    assert len(merged.features) == max(1, round(ratio * frames * tokens))
    assert len((merged.frame * tokens + merged.position).unique()) == len(merged.frame)
    assert bool((merged.size >= 1).all())
    assert merged.origins is not None
    into = merged.origins().into.flatten()
    kept = torch.bincount(into[into >= 0], minlength=frames * tokens)
    assert torch.equal(kept[merged.frame * tokens + merged.position], merged.size)
