"""Frames by change: those that together show the most of many, with their own times, from any file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.video_files import moving_frames, write_frames

from holitom import SettingsError, iter_frames, load_video
from holitom.bench import moving_camera
from holitom.bench import moving_digits as md
from holitom.video import choosing, opened_source, read
from holitom.video.change import (
    AROUND,
    LEVELS,
    cheapest,
    chosen,
    chosen_of,
    missed,
    not_shown,
    thumbnail,
)
from holitom.video.decoding import UntrustedError
from holitom.video.reading import Source
from holitom.video.sampling import Sampling, spread
from holitom.video.upright import Array, Picture, Resize


@st.composite
def seen(draw: st.DrawFn) -> tuple[NDArray[np.uint8], int]:
    """Thumbnails `[n, h, w, 3]` with few levels, so that ranges of colours matter; and a reach."""
    total, height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return rng.integers(0, 80, (total, height, width, 3)).astype(np.uint8), draw(st.integers(1, total))


def slowly(thumbnails: NDArray[np.uint8], i: int, j: int) -> NDArray[np.bool_]:
    """Which places of candidate `i` candidate `j` does not show."""
    _, height, width, _ = thumbnails.shape
    new = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            rows, columns = (slice(max(0, at - AROUND), at + AROUND + 1) for at in (y, x))
            around = thumbnails[j, rows, columns].astype(int)
            colour = thumbnails[i, y, x].astype(int)
            low, high = around.min((0, 1)) - LEVELS, around.max((0, 1)) + LEVELS
            new[y, x] = ((colour < low) | (colour > high)).any()
    return new


@given(seen())
def test_a_candidate_is_missed_where_neither_chosen_neighbour_shows_it(
    given_: tuple[NDArray[np.uint8], int],
) -> None:
    thumbnails, reach = given_
    total, height, width, _ = thumbnails.shape
    new = {(i, j): slowly(thumbnails, i, j) for i in range(total) for j in range(total)}
    first, steps, last = missed(not_shown(thumbnails, reach), height * width)
    for j in range(total):
        before = sum(new[i, j].mean() for i in range(j))
        assert first[j] == pytest.approx(before if j < reach else np.inf)
        behind = sum(new[i, j].mean() for i in range(j + 1, total))
        assert last[j] == pytest.approx(behind if total - 1 - j < reach else np.inf)
        for m in range(1, reach + 1):
            between = [(new[i, j] & new[i, j + m]).mean() for i in range(j + 1, j + m) if j + m < total]
            assert steps[j, m - 1] == pytest.approx(sum(between) if j + m < total else np.inf)


@given(st.integers(1, 9), st.data())
def test_no_other_frames_miss_less(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, total))
    reach = data.draw(st.integers(-(-(total + 1) // (count + 1)), total))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    first, last = rng.integers(0, 9, (2, total)).astype(float)
    steps = rng.integers(0, 9, (total, reach)).astype(float)

    def cost(frames: tuple[int, ...]) -> float:
        gaps = [b - a for a, b in pairwise(frames)]
        if max(gaps, default=1) > reach:
            return float("inf")
        return float(first[frames[0]] + last[frames[-1]]) + sum(
            float(steps[a, gap - 1]) for a, gap in zip(frames, gaps, strict=False)
        )

    found = tuple(cheapest(first, steps, last, count))
    assert len(found) == count
    assert cost(found) == min(map(cost, combinations(range(total), count)))


@given(st.integers(-AROUND, AROUND), st.integers(-AROUND, AROUND), st.integers(0, 99))
def test_a_view_that_moves_a_little_shows_nothing_new_inside(down: int, across: int, seed: int) -> None:
    world = np.random.default_rng(seed).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    views = np.stack([world[4:36, 4:36], world[4 + down : 36 + down, 4 + across : 36 + across]])
    new = np.unpackbits(not_shown(views, 1)[0, 2]).reshape(32, 32)
    assert not new[AROUND : 32 - AROUND, AROUND : 32 - AROUND].any()


@pytest.mark.parametrize("size", [(1, 1), (9, 7), (112, 112), (720, 1280), (4000, 20)])
def test_thumbnails_keep_the_shape_of_a_picture(size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), (10, 100, 200), np.uint8)
    small = thumbnail(frame)
    assert (small == (10, 100, 200)).all()
    assert small.shape[0] <= size[0]
    assert small.shape[0] * small.shape[1] <= 1200


def test_a_still_video_is_evenly_spread() -> None:
    found = chosen(np.full((64, 8, 8, 3), 7, np.uint8), 16)
    gaps = np.diff([-1, *found, 64])
    assert len(found) == 16
    assert gaps.max() <= 6


@pytest.mark.parametrize("count", [1, 2, 5, 16, 63])
def test_no_stretch_is_without_a_frame(count: int) -> None:
    """Even where all that changes is at the end."""
    frames = np.zeros((64, 16, 16, 3), np.uint8)
    frames[48:] = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3))
    found = chosen_of(frames, count)
    assert len(found) == len(set(found)) == count
    assert np.diff([-1, *found, 64]).max() <= 4 * -(-64 // count)


@pytest.mark.parametrize("camera", moving_camera.CAMERAS)
def test_what_flashes_before_a_camera_is_among_the_frames(camera: str) -> None:
    """Half of the frames: evenly spread ones miss one shape in five."""
    seen, even = 0, 0
    for index in range(100000, 100012):
        video = md.sample("test", index, camera=moving_camera.camera(camera, [83, index]))
        (flash,) = video.flashes
        span = range(flash.start, flash.stop)
        seen += any(number in span for number in chosen_of(video.frames, 8))
        even += any(number in span for number in spread(16, 8))
    assert seen >= 11 > even, (seen, even)


@pytest.fixture(scope="module")
def flashing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 frames of noise that stays, of which the 41st has a white square."""
    frames = [np.random.default_rng(0).integers(0, 60, (48, 64, 3), dtype=np.uint8)] * 64
    frames[40] = frames[40].copy()
    frames[40][8:24, 8:24] = 255
    return write_frames(tmp_path_factory.mktemp("change") / "a.mp4", frames, g="12", preset="ultrafast")


def test_a_file_by_change(flashing: Path) -> None:
    video = load_video(flashing, 8, frames_by="change")
    numbers = list(video.metadata.frames_indices or ())
    assert 40 in numbers
    assert len(numbers) == 8
    assert numbers == sorted(set(numbers))
    assert {number % 2 for number in numbers} == {0}  # of 32 candidates of 64 frames
    assert np.array_equal(video.frames, load_video(flashing, 64).frames[numbers])
    assert video.times == pytest.approx([number / 25 for number in numbers])
    batches = list(iter_frames(flashing, 8, frames_by="change", batch=3))
    assert np.array_equal(np.concatenate([batch.frames for batch in batches]), video.frames)
    assert [time for batch in batches for time in batch.times] == video.times


def test_a_stretch_and_a_rate_by_change(flashing: Path) -> None:
    part = load_video(flashing, fps=5, start=1, end=2, frames_by="change")
    numbers = list(part.metadata.frames_indices or ())
    assert len(numbers) == 5
    assert all(25 <= number < 50 for number in numbers)
    assert 40 in numbers


def test_few_frames_are_all_there_are(flashing: Path) -> None:
    by_change = load_video(flashing, 64, frames_by="change")
    assert by_change.metadata.frames_indices == list(range(64))
    assert by_change.reading == load_video(flashing, 64).reading  # nothing is decoded twice


@pytest.mark.parametrize("name", ["shared.avi", "twice.ts"])
def test_files_whose_packets_do_not_number_frames(tmp_path: Path, name: str) -> None:
    path = write_frames(tmp_path / name, moving_frames(40), g="12", preset="ultrafast")
    if name == "twice.ts":
        path.write_bytes(path.read_bytes() * 2)
    whole = load_video(path, 200)
    video = load_video(path, 6, frames_by="change")
    numbers = list(video.metadata.frames_indices or ())
    assert len(numbers) == 6
    assert np.array_equal(video.frames, whole.frames[numbers])
    assert video.times == pytest.approx([whole.times[number] for number in numbers])


def square(side: int) -> Callable[[int, int, int], Resize]:
    def resize(frame: Array, number: int) -> Array:
        return np.asarray(Image.fromarray(frame).resize((side, side)))

    return lambda frames, height, width: resize


def test_nothing_is_decoded_twice(flashing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are kept as they were decoded, as many as there is memory for; the others are read again."""
    kept = load_video(flashing, 8, frames_by="change")
    candidates = load_video(flashing, 32).reading
    assert kept.reading == candidates
    monkeypatch.setattr(choosing, "KEPT_BYTES", 0)
    again = load_video(flashing, 8, frames_by="change")
    assert again.reading is not None
    assert candidates is not None
    assert again.reading.decoded > candidates.decoded
    assert np.array_equal(again.frames, kept.frames)
    assert again.times == kept.times
    monkeypatch.setattr(choosing, "KEPT_BYTES", 10 * 64 * 48 * 3 // 2)
    some = load_video(flashing, 8, frames_by="change")
    assert np.array_equal(some.frames, kept.frames)
    for side in (12, 99):  # resized frames are kept where they are smaller
        fit = square(side)
        small = read(opened_source(flashing, Sampling(8, frames_by="change"), fit=fit), fit=fit)
        assert small.times == kept.times
        assert np.array_equal(small.frames, [fit(8, 48, 64)(frame, 0) for frame in kept.frames])
        assert small.reading is not None
        assert (small.reading == candidates) is (side == 12)
    batches = list(iter_frames(flashing, 8, frames_by="change", batch=3))
    assert np.array_equal(np.concatenate([batch.frames for batch in batches]), kept.frames)


@pytest.mark.parametrize("fails", [1, 2])
def test_frames_by_change_stay_those_where_the_file_disagrees_with_its_packets(
    fails: int, flashing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether that shows while candidates are read or behind them, the frames are chosen by change anew."""
    wanted = load_video(flashing, 8, frames_by="change")
    by_table, calls = Source._by_table, []

    def lies(self: Source, *args: Any) -> Iterator[Picture]:
        calls.append(1)
        for i, picture in enumerate(by_table(self, *args)):
            if i == 3 and len(calls) == fails:
                raise UntrustedError("frames come out otherwise")
            yield picture

    monkeypatch.setattr(Source, "_by_table", lies)
    monkeypatch.setattr(choosing, "KEPT_BYTES", 0)
    video = load_video(flashing, 8, frames_by="change")
    assert video.reading is not None
    assert video.reading.note == "frames come out otherwise"
    assert video.metadata.frames_indices == wanted.metadata.frames_indices
    assert np.array_equal(video.frames, wanted.frames)
    assert video.times == wanted.times


@pytest.mark.parametrize("kept", [0, choosing.KEPT_BYTES])
def test_by_change_from_a_file_with_fewer_frames_than_packets(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "KEPT_BYTES", kept)
    options = {"g": "12", "preset": "ultrafast", "bf": "3", "x264-params": "open-gop=1:log-level=none"}
    path = write_frames(tmp_path / "a.ts", moving_frames(72), **options)
    path.write_bytes(path.read_bytes()[188 * 40 :])  # cut at the front
    whole = load_video(path, 200).frames
    for count in (5, 30, 40):
        candidates = spread(len(whole), 4 * count)
        expected = [candidates[i] for i in chosen_of(whole[candidates], min(count, len(whole)))]
        video = load_video(path, count, frames_by="change")
        assert video.metadata.frames_indices == expected
        assert np.array_equal(video.frames, whole[expected])
        batches = list(iter_frames(path, count, frames_by="change", batch=7))
        assert [n for batch in batches for n in batch.metadata.frames_indices] == expected
        assert np.array_equal(np.concatenate([batch.frames for batch in batches]), video.frames)


def test_an_unknown_way_to_choose(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="frames_by must be time or change, not 'colour'"):
        load_video(tmp_path / "never-opened.mp4", frames_by="colour")  # type: ignore[arg-type]
