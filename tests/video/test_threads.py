"""Frames in several threads: the order of one thread, few at a time, and every error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.video_files import write_video

from holitom.video import Resize, Sampling, VideoError, load_sampled
from holitom.video.threads import mapped
from holitom.video.upright import Array


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    first = threading.Event()

    def work(item: int) -> int:
        if not item and threads > 1:
            assert first.wait(10)  # the first result is ready behind the second
        first.set()
        return item * item

    assert list(mapped(work, range(20), threads)) == [item * item for item in range(20)]
    assert list(mapped(work, [], threads)) == []


def test_pytorchs_threads_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    for count, prefix in ((1, "MainThread"), (3, "holitom-frames")):
        names.clear()
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        list(mapped(lambda item: names.add(threading.current_thread().name), range(20)))
        assert 1 <= len(names) <= count
        assert all(name.startswith(prefix) for name in names)


def test_few_items_are_taken_before_their_results_are() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    for done, _ in enumerate(mapped(lambda item: item, items(), 3)):
        assert taken - done <= 6


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_of_items_and_of_work_are_raised_and_end_the_threads(threads: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VideoError("no more")

    def fail(item: int) -> int:
        raise ValueError(item)

    with pytest.raises(VideoError, match="no more"):
        list(mapped(lambda item: item, items(), threads))
    with pytest.raises(ValueError, match="1"):
        list(mapped(fail, [1, 2], threads))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("holitom-frames")]


@pytest.mark.parametrize("size", [(64, 48), (320, 240)])
def test_a_file_is_read_in_threads_to_the_bytes_of_one(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(frame: Array, number: int) -> Array:
        return frame[::2, ::2]

    def fit(frames: int, height: int, width: int) -> Resize:
        return half

    path = write_video(tmp_path / "a.mp4", frames=30, size=size)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(load_sampled(path, Sampling(20), fit=fit))
    one, several = found
    assert np.array_equal(one.frames, several.frames)
    assert one.times == several.times
    assert one.reading == several.reading
