"""MovingDigits-QA before a moving camera: the same scenes and answers, and frames that move as stated."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holitom.bench import moving_camera
from holitom.bench import moving_digits as md
from holitom.bench.moving_camera import View
from holitom.bundled import DEMO_VIDEO
from holitom.cli import main

MOVING_8 = ", moving camera (pan), 8 frames by change"
MOVING = [name for name in moving_camera.CAMERAS if name != moving_camera.STILL]


@pytest.mark.parametrize("name", MOVING)
def test_a_camera_changes_the_view_alone(name: str) -> None:
    still = md.sample("test", 100003)
    moved = md.sample("test", 100003, camera=moving_camera.camera(name, [1]))
    assert moved.questions == still.questions
    assert moved.frames.shape == still.frames.shape
    assert not np.array_equal(moved.frames, still.frames)
    assert np.array_equal(moving_camera.frames(100003, name), moving_camera.frames(100003, name))


def test_a_still_camera_shows_the_benchmark() -> None:
    assert np.array_equal(moving_camera.frames(5, "still"), md.sample("test", 5).frames)


@given(st.sampled_from(MOVING), st.integers(1, 40), st.integers(0, 1000))
def test_every_view_stays_near_the_scene(name: str, frames: int, seed: int) -> None:
    """At most half a digit's cell of a scene is out of view, and no view leaves the mirrored margin."""
    shift, scale = moving_camera.path(name, frames, np.random.default_rng(seed))
    assert np.abs(shift).max() <= md.CELL / 2
    assert ((scale >= 1) & (scale <= moving_camera.WIDEST)).all()
    reach = np.abs(shift).max() + (scale.max() - 1) * md.SIDE / 2
    assert reach <= moving_camera.MARGIN


def test_a_view_is_shifted_and_scaled_as_its_path_says() -> None:
    rng = np.random.default_rng(0)
    video = rng.uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    stay, shift = np.ones(2, np.float32), np.array([[3, 0], [0, -2]], np.float32)
    moved = moving_camera.seen(video, video, shift, stay)
    np.testing.assert_allclose(moved[0, :, :-3], video[0, :, 3:], rtol=1e-4)
    np.testing.assert_allclose(moved[0, :, -3:], video[0, :, :-4:-1], rtol=1e-4)  # mirrored
    np.testing.assert_allclose(moved[1, 2:], video[1, :-2], rtol=1e-4)
    flat = moving_camera.seen(np.ones_like(video), np.zeros_like(video), 0 * shift, 1.5 * stay)
    assert flat[0, 6, 6].max() == pytest.approx(1)
    assert flat[0, 0, 0].max() == 0  # beyond the scene's edge is its background


def test_frames_by_time_are_those_that_load_video_takes_and_know_their_times() -> None:
    whole = moving_camera.frames(100003, "pan")
    for frames_by in ("time", "change"):
        video = moving_camera.shown(100003, View("pan", 6, frames_by))
        numbers = list(video.metadata.frames_indices or ())
        assert np.array_equal(video.frames, whole[numbers])
        assert video.times == [number / 2 for number in numbers]
        assert video.metadata.total_num_frames == len(whole)
        assert (numbers == [0, 2, 5, 8, 10, 13]) is (frames_by == "time")


def test_all_frames_are_the_same_however_they_are_chosen() -> None:
    for frames_by in ("time", "change"):
        video = moving_camera.shown(100003, View("zoom", frames_by=frames_by))
        assert np.array_equal(video.frames, moving_camera.frames(100003, "zoom"))


@pytest.mark.parametrize(
    ("view", "folder", "title"),
    [
        (View(), "runs", ""),
        (View("pan"), "runs/pan", ", moving camera (pan)"),
        (View(frames=8), "runs/8-frames-by-time", ", 8 frames by time"),
        (
            View("pan", 8, "change"),
            "runs/pan/8-frames-by-change",
            ", moving camera (pan), 8 frames by change",
        ),
    ],
)
def test_every_view_has_a_folder_of_its_own(view: View, folder: str, title: str) -> None:
    assert view.folder(Path("runs")) == Path(folder)
    assert view.title == title


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "0"], "frames must be in 1..16, got 0"),
        (["--frames", "17"], "frames must be in 1..16, got 17"),
        (["--frames-by", "colour"], "frames_by must be time or change, not 'colour'"),
    ],
)
def test_a_view_that_there_is_not(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "accuracy", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_tool_prints_what_each_idea_saves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Path(__file__).parents[2] / "tools" / "tower_ideas.py"
    monkeypatch.setattr(sys, "argv", [tool.name, "--videos", "1"])
    runpy.run_path(str(tool), run_name="__main__")
    by_video = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [tool.name, "--frames", "4", str(DEMO_VIDEO)])
    runpy.run_path(str(tool), run_name="__main__")
    by_file = capsys.readouterr().out
    assert all(name in by_video for name in moving_camera.CAMERAS)
    assert by_video.count("(d) MLP rows") == 2 * len(moving_camera.CAMERAS)
    shares = [float(share) for share in re.findall(r"([\d.]+)%\n", by_video + by_file)]
    assert all(0 <= share <= 100 for share in shares)
    cosines = re.findall(r"even ([\d.]+), by change ([\d.]+)", by_file)
    assert all(0.5 < float(cosine) <= 1 for pair in cosines for cosine in pair)
    assert len(cosines) == 1


def test_commands_know_the_cameras(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("accuracy", "reuse"):
        assert main(["bench", command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in moving_camera.CAMERAS)
        assert main(["bench", command, "--camera", "drone"]) == 2
        assert "unknown camera 'drone'; known: still, pan, zoom, shake" in capsys.readouterr().err
