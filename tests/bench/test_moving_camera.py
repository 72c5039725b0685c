"""MovingDigits-QA before a moving camera: the same scenes and answers, and frames that move as stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holitom.bench import moving_camera
from holitom.bench import moving_digits as md
from holitom.cli import main

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


def test_commands_know_the_cameras(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("accuracy", "reuse"):
        assert main(["bench", command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in moving_camera.CAMERAS)
        assert main(["bench", command, "--camera", "drone"]) == 2
        assert "unknown camera 'drone'; known: still, pan, zoom, shake" in capsys.readouterr().err
