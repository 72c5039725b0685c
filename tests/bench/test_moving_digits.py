"""MovingDigits-QA: what a question says must be true of the pixels, and the splits must not mix."""

from __future__ import annotations

import numpy as np
import pytest

from holitom.bench import moving_digits as md


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_sample_is_a_function_of_its_arguments(split: md.Split) -> None:
    first, again = md.sample(split, 5), md.sample(split, 5)
    assert np.array_equal(first.frames, again.frames)
    assert first.questions == again.questions
    assert not np.array_equal(first.frames, md.sample(split, 6).frames)


def test_splits_share_no_digit_image_and_no_video() -> None:
    from sklearn.datasets import load_digits

    order = np.random.default_rng(123).permutation(len(load_digits().target))
    train, _ = md._glyphs("train")
    test, _ = md._glyphs("test")
    assert len(train) + len(test) == len(order)
    assert len(test) == md.TEST_DIGITS
    plain = {image.tobytes() for image in train[:, 0]}
    repeats = sum(image.tobytes() in plain for image in test[:, 0])
    assert repeats == 0
    assert not np.array_equal(md.sample("train", 3).frames, md.sample("test", 3).frames)


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 40])
def test_every_video_is_well_formed(frames: int) -> None:
    for index in range(30):
        video = md.sample("test", index, frames)
        assert video.frames.shape == (frames, md.SIDE, md.SIDE, 3)
        assert video.frames.dtype == np.uint8
        assert 1 <= video.scenes <= md.MAX_SCENES
        assert len(set(video.background.tolist())) == video.scenes
        colors = [d.color for d in video.digits]
        assert len(set(colors)) == len(colors)
        for s in range(video.scenes):
            assert 1 <= sum(d.scene == s for d in video.digits) <= md.MAX_DIGITS_A_SCENE
        assert all((d.cells >= 0).all() and (d.cells < md.GRID).all() for d in video.digits)


def test_digits_are_where_the_answers_say() -> None:
    palette = np.array(list(md.COLORS.values()), float)
    for index in range(40):
        video = md.sample("test", index)
        for digit in video.digits:
            for t, (x, y) in enumerate(digit.cells, digit.start):
                cell = video.frames[t, y * md.CELL : (y + 1) * md.CELL, x * md.CELL : (x + 1) * md.CELL]
                distance = np.abs(cell.reshape(-1, 3) - palette[digit.color]).max(1)
                assert (distance < 40).sum() >= 8, (index, digit)


def test_still_background_stays_and_cuts_change_it() -> None:
    video = md.sample("test", 1)
    assert video.scenes > 1
    corner = video.frames[:, :, :].astype(float)
    change = np.abs(np.diff(corner, axis=0)).mean((1, 2, 3))
    cut = np.diff(video.scene) == 1
    assert change[cut].min() > 2 * change[~cut].max()


def test_answers_agree_with_the_scene() -> None:
    seen = set()
    for index in range(60):
        video = md.sample("test", index)
        by_color = {list(md.COLORS)[d.color]: d for d in video.digits}
        for q in video.questions:
            seen.add(q.task)
            words = q.text.rstrip("?").split()
            named = [by_color[w] for w in words if w in by_color]
            if q.task == "identity":
                assert q.answer == md.NUMBERS[named[0].number]
            elif q.task == "motion":
                step = named[0].cells[-1] - named[0].cells[0]
                assert tuple(np.sign(step)) == md.MOTIONS[q.answer]
            elif q.task == "scenes":
                assert q.answer == md.NUMBERS[len(set(video.scene.tolist()))]
            elif q.task == "count":
                scene = 0 if "first" in words else video.scenes - 1
                assert q.answer == md.NUMBERS[sum(d.scene == scene for d in video.digits)]
            elif q.task == "order":
                scene = 0 if "first" in words else video.scenes - 1
                assert by_color[q.answer].scene == scene
            elif q.task == "position":
                x, y = named[0].cells[0 if "start" in words else -1]
                assert ("left" in q.answer) == (x < md.GRID // 2)
                assert ("top" in q.answer) == (y < md.GRID // 2)
    assert seen == set(md.TASKS)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="frames must be at least 1"):
        md.sample("test", 0, frames=0)
    with pytest.raises(ValueError, match="index at least 0"):
        md.sample("test", -1)
