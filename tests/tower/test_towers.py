"""Each family's tower under a plan: bit for bit the stock tower where nothing differs, else a slow one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.families import small
from support.towers import CAN, CANNOT, Encoder, fours, mixed, still

from holitom.errors import UnsupportedModelError
from holitom.models import adapter_for
from holitom.tower import Reuse, ReusedTower

EQUAL = Reuse(threshold=0)


@pytest.mark.parametrize("name", CAN)
def test_a_video_of_one_picture_is_computed_once(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    found, report = encoder.reused(EQUAL, still(own))
    assert report.computed_share == 1 / len(report.plans[0].computed)
    assert report.groups == 1
    assert not report.stock
    for one, other in zip(found, encoder.stock(still(own)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CAN)
def test_equal_frames_lose_nothing(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    found, report = encoder.reused(EQUAL, fours(own))
    assert report.computed_share <= 0.5
    for one, other in zip(found, encoder.stock(fours(own)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CAN)
def test_what_changes_is_computed_over_the_whole_frame(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    found, report = encoder.reused(EQUAL, mixed(own))
    (plan,) = report.plans
    partial = plan.computed.mean(1)
    assert ((partial > 0) & (partial < 1)).any()
    stock = encoder.stock(mixed(own))
    for one, slow, other in zip(found, encoder.slow(report.plans, mixed(own)), stock, strict=True):
        torch.testing.assert_close(one, slow, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(one, other, atol=1e-3)  # the slow one is another tower than the stock one


@pytest.mark.parametrize("name", CAN)
def test_a_video_that_moves_everywhere_runs_the_stock_tower(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, own.video().shape, dtype=np.uint8)
    found, report = encoder.reused(Reuse(), video)
    assert report.stock
    assert report.computed_share == 1
    for one, other in zip(found, encoder.stock(video), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CAN)
def test_videos_of_a_batch_do_not_meet(name: str) -> None:
    """The same picture in two videos is computed in each; a plan is the video's own."""
    own = small(name)
    encoder = Encoder(own)
    videos = (mixed(own), still(own))
    found, report = encoder.reused(EQUAL, *videos)
    alone = [encoder.reused(EQUAL, video)[1].plans[0] for video in videos]
    for plan, other in zip(report.plans, alone, strict=True):
        assert np.array_equal(plan.computed, other.computed)
        assert np.array_equal(plan.reference, other.reference)
    for one, slow in zip(found, encoder.slow(report.plans, *videos), strict=True):
        torch.testing.assert_close(one, slow, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava-onevision", "internvl", "qwen2.5-vl", "videollama3"])
def test_eager_attention_is_the_models_own(name: str) -> None:
    own = small(name, "eager")
    encoder = Encoder(own)
    found, report = encoder.reused(EQUAL, fours(own))
    assert not report.stock
    for one, other in zip(found, encoder.stock(fours(own)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CANNOT)
def test_the_error_for_a_tower_that_cannot_reuse_names_it_and_the_reason(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"minicpmv4.*slices.*leave reuse off"):
        ReusedTower(adapter_for(small(name).model))
