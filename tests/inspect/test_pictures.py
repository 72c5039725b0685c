"""Pictures of frames that are kept while a video is read in the size of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.video_files import write_video

from holitom.inspect.pictures import SIDE, Pictured, small
from holitom.video import Fit, Resize, Sampling, load_sampled, load_video
from holitom.video.upright import Array


def squash(frame: Array, number: int) -> Array:
    return frame[::2, ::4]


def squashing(frames: int, height: int, width: int) -> Resize | None:
    return squash


def none(frames: int, height: int, width: int) -> Resize | None:
    return None


def read(path: Path, fit: Fit) -> tuple[Array, Array]:
    kept = Pictured(fit)
    video = load_sampled(path, Sampling(4), fit=kept)
    return video.frames, kept.pictures(video)


def test_frames_have_the_models_size_and_pictures_the_files_aspect_ratio(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wide.mp4", size=(900, 300))
    frames, pictures = read(path, squashing)
    whole = load_video(path, 4).frames
    assert (frames == np.stack([squash(frame, 0) for frame in whole])).all()
    assert pictures.shape == (4, 149, SIDE, 3)
    assert (pictures == np.stack([small(frame) for frame in whole])).all()


def test_small_frames_are_pictures_as_they_are(tmp_path: Path) -> None:
    path = write_video(tmp_path / "small.mp4", size=(64, 48))
    frames, pictures = read(path, squashing)
    assert frames.shape == (4, 24, 16, 3)
    assert (pictures == load_video(path, 4).frames).all()


def test_frames_that_cannot_be_resized_one_at_a_time_are_pictures_themselves(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wide.mp4", size=(900, 300))
    frames, pictures = read(path, none)
    assert pictures is frames


def test_a_file_that_is_read_twice_has_each_picture_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "small.mp4", size=(64, 48))
    kept = Pictured(squashing)
    for count in (4, 3):
        video = load_sampled(path, Sampling(count), fit=kept)
    assert kept.pictures(video).shape == (3, 48, 64, 3)
