"""Random and Uniform by hand."""

from __future__ import annotations

import pytest
import torch
from support.videos import clip

from holitom.errors import SettingsError
from holitom.methods import Random, Uniform


def test_uniform_shows_the_middles_of_equal_parts() -> None:
    merged = Uniform(0.5).merge(clip(8, 3))
    assert merged.frame.tolist() == [1] * 3 + [3] * 3 + [5] * 3 + [7] * 3  # parts 0-1, 2-3, 4-5, 6-7
    assert merged.position.tolist() == [0, 1, 2] * 4
    assert Uniform(0.1).merge(clip(32, 1)).frame.tolist() == [5, 16, 26]  # 32 (2i + 1) / 6: 5.33, 16, 26.67
    assert Uniform(0.29).kept_frames(100) == 29  # 0.29 * 100 is 28.999999999999996


def test_uniform_says_what_it_can_keep() -> None:
    with pytest.raises(SettingsError, match=r"of 16 it can keep one, retain_ratio 0\.0625 at the least"):
        Uniform(0.05).merge(clip(16, 4))


def test_random_draws_by_its_seed() -> None:
    video = clip(8, 10)
    one, other = Random(0.3).merge(video), Random(0.3, seed=1).merge(video)
    assert len(one.frame) == len(other.frame) == 24
    assert not torch.equal(one.frame * 10 + one.position, other.frame * 10 + other.position)
    assert Random(0.251).merged_count(8, 10) == 21  # 20.08, rounded up
    with pytest.raises(SettingsError, match="seed"):
        Random(seed=-1)


def test_random_takes_every_token_as_often() -> None:
    drawn = torch.zeros(40)
    for seed in range(500):
        merged = Random(0.5, seed=seed).merge(clip(4, 10))
        drawn[merged.frame * 10 + merged.position] += 1
    assert bool(((drawn > 190) & (drawn < 310)).all())  # 250 expected, deviation 11
