"""Interlaced H.264: frames that are coded as two fields, each a picture, in packets of their own or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.field_streams import write_fields
from support.straight_decode import check
from support.video_files import moving_frames, write_frames

from holitom import load_video

ALONE = "single fields"
KINDS: dict[str, Callable[[int], bool]] = {
    "all": lambda frame: True,
    "late": lambda frame: 50 <= frame < 90,
    "last": lambda frame: frame >= 90,
    "third": lambda frame: frame % 3 == 0 and frame > 25,
}


@pytest.mark.parametrize(
    ("name", "kind", "counted"),
    [
        *[(name, kind, 0) for name in ("a.ts", "a.mkv", "a.mp4") for kind in KINDS],
        ("a.mkv", "third", 1),
        ("a.mkv", "third", 2),
    ],
)
def test_fields_in_packets_of_their_own(tmp_path: Path, name: str, kind: str, counted: int) -> None:
    path = write_fields(tmp_path / name, 120, KINDS[kind], counted=counted)
    for video in check(path, (2, 7, 200)):
        assert video.reading is not None
        assert ALONE in (video.reading.note or "")
        assert video.metadata.total_num_frames == 120
        assert np.allclose(video.times, np.array(video.metadata.frames_indices) / 25, atol=0.001)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_both_fields_in_one_packet_are_a_whole_frame(tmp_path: Path, name: str, kind: str) -> None:
    path = write_fields(tmp_path / name, 120, KINDS[kind], together=True)
    for video in check(path, (2, 7, 200)):
        assert video.reading is not None
        assert video.reading.note is None


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_fields_without_a_second_one(tmp_path: Path, name: str) -> None:
    """A decoder drops some of them, so frames are counted."""
    path = write_fields(tmp_path / name, 120, KINDS["late"], lone=lambda frame: frame % 7 == 5)
    check(path, (2, 7, 200))


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_frames_whose_macroblocks_are_in_fields(tmp_path: Path, name: str) -> None:
    settings = "interlaced=1:tff=1:bframes=2:log-level=none"
    write_frames(tmp_path / name, moving_frames(72), g="12", **{"x264-params": settings})
    check(tmp_path / name)
    reading = load_video(tmp_path / name, 2).reading
    assert reading is not None
    assert reading.note is None
    assert reading.decoded < 72
