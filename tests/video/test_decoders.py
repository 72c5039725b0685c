"""Several decoders of one file: the frames, the progress and the errors of one, and a bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.video_files import moving_frames, write_frames

from holitom import Video, iter_frames, load_video
from holitom.video import Sampling, decoders
from holitom.video.decoders import stretches
from holitom.video.decoding import UntrustedError, runs
from holitom.video.opening import open_video
from holitom.video.reading import Source

X264 = {"g": "12", "preset": "veryfast", "sc_threshold": "0"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 240 frames with a keyframe every twelve."""
    return write_frames(tmp_path_factory.mktemp("decoders") / "a.mp4", moving_frames(240), **X264)


def several(monkeypatch: pytest.MonkeyPatch, cores: int = 4) -> list[int]:
    """Have stretches of any length decoded at the same time; the threads of each decoder that is opened."""
    monkeypatch.setattr(decoders, "cores", lambda: cores)
    monkeypatch.setattr(decoders, "WORTH", 1)
    counts: list[int] = []
    at_once = decoders.at_once

    def watched(opening: Callable[[int], Any], *args: Any) -> Any:
        def counted(threads: int) -> Any:
            counts.append(threads)
            return opening(threads)

        return at_once(counted, *args)

    monkeypatch.setattr("holitom.video.reading.at_once", watched)
    return counts


def told(path: Path, count: int) -> tuple[Video, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    return load_video(path, count, lambda done, of: seen.append((done, of))), seen


@pytest.mark.parametrize("count", [3, 10, 60, 240])
def test_several_decoders_give_what_one_gives(
    count: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "cores", lambda: 1)
    one, progress = told(path, count)
    counts = several(monkeypatch)
    many, seen = told(path, count)
    assert 1 < len(counts) <= 4
    assert set(counts) == {4 // min(4, count)}
    assert np.array_equal(one.frames, many.frames)
    assert one.times == many.times
    assert seen[-1] == progress[-1]
    assert seen == sorted(seen)
    assert one.reading is not None
    assert many.reading is not None
    assert one.reading.note is many.reading.note is None
    assert many.reading.decoded <= one.reading.decoded


def test_stretches_end_at_entries_once_they_are_long_enough(path: Path) -> None:
    packets = open_video(path).packets
    whole, parts = runs(packets, range(240)), runs(packets, range(240), 40)
    assert len(whole) == 1
    assert [run.first for run in parts] == [0, 48, 96, 144, 192]
    assert [number for run in parts for number in sorted(run.wanted.values())] == list(range(240))


def test_little_work_is_left_to_one_decoder(path: Path) -> None:
    packets = open_video(path).packets
    few = [12 * i for i in range(10)]
    assert stretches(packets, few, (64, 48), 4) is None
    assert stretches(packets, range(0, 240, 3), (64, 48), 1) is None
    plan = stretches(packets, range(0, 240, 3), (64, 48), 8)
    assert plan is not None
    assert (plan.decoders, plan.threads) == (3, 2)
    assert sum(run.last - run.first + 1 for run in plan.runs) < 4 * decoders.WORTH


def test_frames_ahead_take_a_bounded_memory(path: Path) -> None:
    packets = open_video(path).packets
    every = range(240)
    assert stretches(packets, every, (64, 48), 3) is not None
    assert stretches(packets, every, (8192, 4320), 3) is None


def test_batches_are_decoded_one_after_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = several(monkeypatch)
    first = next(iter_frames(path, 60, batch=4))
    assert first.reading is not None
    assert first.reading.decoded < 60
    assert not counts


def test_a_reader_that_ends_early_ends_its_decoders(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = several(monkeypatch)
    source = Source(open_video(path), Sampling(60))
    source.choose()
    pictures = source.pictures()
    assert len(list(islice(pictures, 3))) == 3
    pictures.close()  # type: ignore[attr-defined]
    assert counts
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("holitom-frames")]


def test_an_error_of_a_later_stretch_comes_behind_the_frames_before_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is then decoded straight through, as with one decoder."""
    wanted = load_video(path, 60)
    several(monkeypatch)
    numbered = decoders.numbered

    def damaged(container: Any, stream: Any, packets: Any, run: Any, work: Any) -> Any:
        if run.first > 100:
            raise av.error.InvalidDataError(1, "damaged")
        return numbered(container, stream, packets, run, work)

    monkeypatch.setattr(decoders, "numbered", damaged)
    source = Source(open_video(path), Sampling(60))
    source.choose()
    read: list[Any] = []
    with pytest.raises(UntrustedError, match="damaged"):
        read.extend(source.pictures())  # keeps what came before the error
    assert len(read) > 10
    assert np.array_equal(np.stack([picture.fitted(None) for picture in read]), wanted.frames[: len(read)])
    video = load_video(path, 60)
    assert video.reading is not None
    assert video.reading.note == "parts of it are damaged"
    assert np.array_equal(video.frames, wanted.frames)
