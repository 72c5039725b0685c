"""Video files as people have them: written here with a real encoder, then damaged where that is the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from support.video_files import turn_sideways, write_video

from holitom.errors import SettingsError, VideoError
from holitom.video import load_video


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def brightness(frames: np.ndarray[Any, Any]) -> list[float]:
    """Of each frame's lower right quarter, where there is no patch."""
    _, height, width, _ = frames.shape
    return [float(x) for x in frames[:, height // 2 :, width // 2 :].mean(axis=(1, 2, 3))]


def test_frames_are_spread_evenly_over_the_whole_video(tmp_path: Path) -> None:
    video = load_video(write_video(tmp_path / "a.mp4"), frames=8)
    assert video.frames.shape == (8, 48, 64, 3)
    assert video.frames.dtype == np.uint8
    assert video.metadata.frames_indices == [0, 3, 6, 9, 12, 15, 18, 21]
    assert video.metadata.total_num_frames == 24
    assert video.metadata.fps == 8
    expected = [200 * i / 23 for i in (0, 3, 6, 9, 12, 15, 18, 21)]
    assert brightness(video.frames) == pytest.approx(expected, abs=4)


def test_rgb_order_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "red.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv444p"
        red = np.zeros((32, 32, 3), np.uint8)
        red[..., 0] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(red, format="rgb24")))
        container.mux(stream.encode())
    r, g, b = load_video(path, frames=1).frames.mean(axis=(0, 1, 2))
    assert r > 240
    assert max(g, b) < 15


def test_decoding_twice_gives_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    assert np.array_equal(load_video(path, 5).frames, load_video(path, 5).frames)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_short_video_gives_each_frame_once(tmp_path: Path, frames: int) -> None:
    video = load_video(write_video(tmp_path / "short.mp4", frames=frames), frames=16)
    assert len(video.frames) == frames
    assert video.metadata.frames_indices == list(range(frames))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "libx264", "yuv420p"),  # these three containers do not say how many frames they hold
        ("a.webm", "libvpx", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.mov", "libx264", "yuv420p"),
        ("alpha.mov", "qtrle", "argb"),
    ],
)
def test_any_container(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    video = load_video(write_video(tmp_path / name, codec=codec, pix_fmt=pix_fmt), frames=6)
    assert video.frames.shape == (6, 48, 64, 3)
    assert video.metadata.frames_indices == [0, 4, 8, 12, 16, 20]
    assert brightness(video.frames) == pytest.approx([200 * i / 23 for i in range(0, 24, 4)], abs=20)


def test_odd_sizes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mp4", size=(65, 47), pix_fmt="yuv444p")
    assert load_video(path, 4).frames.shape == (4, 47, 65, 3)


def test_packets_that_show_nothing_are_not_counted(tmp_path: Path) -> None:
    # VP8's hidden reference frames are packets of their own.
    path = tmp_path / "hidden.webm"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}
        noise = np.random.default_rng(0)
        for i in range(60):
            image = np.full((48, 64, 3), 3 * i, np.uint8) + noise.integers(0, 30, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    video = load_video(path, frames=60)
    assert len(video.frames) == 60
    assert video.metadata.total_num_frames == 60


def test_sideways_video_is_turned_upright(tmp_path: Path) -> None:
    path = turn_sideways(write_video(tmp_path / "phone.mp4"))
    video = load_video(path, frames=2)
    assert video.frames.shape == (2, 64, 48, 3)
    assert (video.metadata.height, video.metadata.width) == (64, 48)
    assert video.frames[0, :8, -8:].mean() > 230  # the patch went from top left to top right
    assert video.frames[0, :8, :8].mean() < 30


def test_progress_is_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_video(
        write_video(tmp_path / "a.mp4"), frames=8, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[0] == (1, 22)
    assert seen[-1] == (22, 22)


def test_names_that_look_like_addresses_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4").rename(tmp_path / "http:x.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(load_video("http:x.mp4", frames=2).frames) == 2


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        load_video(tmp_path / "nowhere.mp4")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="a directory"):
        load_video(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match="empty"):
        load_video(tmp_path / "empty.mp4")


def test_text_with_a_video_name(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    with pytest.raises(VideoError, match="no readable video"):
        load_video(tmp_path / "text.mp4")


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("FFmpeg would draw this as a video of a terminal\n" * 100)
    with pytest.raises(VideoError, match="a text, not a video"):
        load_video(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_image(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / name)
    with pytest.raises(VideoError, match="an image, not a video"):
        load_video(tmp_path / name)


def test_sound_only(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="only sound"):
        load_video(write_sound(tmp_path / "sound.mp4"))


@pytest.mark.parametrize("faststart", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_mp4(tmp_path: Path, faststart: bool, share: float) -> None:
    options = {"movflags": "faststart"} if faststart else {}
    path = cut(write_video(tmp_path / "cut.mp4", frames=200, **options), share)
    with pytest.raises(VideoError, match="cut short"):
        load_video(path)


def test_raw_stream(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="Put it into an mp4 file"):
        load_video(write_video(tmp_path / "raw.h264"))


def test_metadata_in_an_old_encoding(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"Caf\xe9"))
    with pytest.raises(VideoError, match="metadata are not UTF-8"):
        load_video(path)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")])
def test_truncated_in_other_containers(tmp_path: Path, name: str, codec: str) -> None:
    with pytest.raises(VideoError, match="cut short"):
        load_video(cut(write_video(tmp_path / name, codec=codec)))


def test_a_video_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match=r"none\.mkv"):
        load_video(path)


@pytest.mark.parametrize("size", [(8208, 16), (16, 8208)])
def test_absurd_frame_size(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "wide.avi", frames=2, size=size, codec="mjpeg", pix_fmt="yuvj420p")
    with pytest.raises(VideoError, match=f"{size[0]} x {size[1]} are too large"):
        load_video(path)


def test_more_frames_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holitom.video.MAX_SAMPLED_BYTES", 64 * 48 * 3 * 10)
    path = write_video(tmp_path / "a.mp4")
    assert len(load_video(path, frames=10).frames) == 10
    with pytest.raises(VideoError, match="ask for fewer frames"):
        load_video(path, frames=11)


@pytest.mark.parametrize("frames", [0, -3])
def test_no_frames_asked(tmp_path: Path, frames: int) -> None:
    with pytest.raises(SettingsError, match=f"frames must be at least 1, not {frames}"):
        load_video(tmp_path / "never-opened.mp4", frames=frames)


def test_damage_in_the_middle_is_an_error_or_a_video(tmp_path: Path) -> None:
    """Whatever bytes are overwritten: frames of the right shape, or our error, and never another."""
    noise = np.random.default_rng(0)
    data = write_video(tmp_path / "a.mp4", frames=40, movflags="faststart").read_bytes()
    for i in range(30):
        hurt = bytearray(data)
        at = int(noise.integers(0, len(data) - 16))
        hurt[at : at + 16] = noise.bytes(16)
        path = tmp_path / f"hurt{i}.mp4"
        path.write_bytes(hurt)
        try:
            video = load_video(path, frames=8)
        except VideoError as error:
            assert str(error).startswith(path.name)  # noqa: PT017
        else:
            assert video.frames.ndim == 4
            assert 1 <= len(video.frames) <= 8


def test_longer_than_allowed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=24)  # three seconds
    assert len(load_video(path, frames=4, max_seconds=3.1).frames) == 4
    with pytest.raises(VideoError, match=r"a.mp4: lasts 0.1 minutes, longer than the 0.04 that are allowed"):
        load_video(path, frames=4, max_seconds=2.4)
