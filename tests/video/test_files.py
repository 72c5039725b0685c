"""Files as people have them: turned, animated, without a rate; and which of their frames are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, features
from support.video_files import moving_frames, set_display_matrix, write_frames, write_times, write_video

from holitom import SettingsError, VideoError, iter_frames, load_video
from holitom.video import FramesBy, look_over
from holitom.video.sampling import spread

OPEN = {"bf": "3", "preset": "veryfast", "x264-params": "open-gop=1:log-level=none"}

ONE = 1 << 16
# a, b, c, d of the display matrix -> rows and columns swapped, and the corner (y, x) that top left goes to.
# As the ffmpeg program shows them.
MATRICES = {
    (ONE, 0, 0, ONE): (False, (0, 0)),
    (0, ONE, -ONE, 0): (True, (0, 1)),
    (-ONE, 0, 0, -ONE): (False, (1, 1)),
    (0, -ONE, ONE, 0): (True, (1, 0)),
    (-ONE, 0, 0, ONE): (False, (0, 1)),
    (ONE, 0, 0, -ONE): (False, (1, 0)),
    (0, ONE, ONE, 0): (True, (0, 0)),
    (0, -ONE, -ONE, 0): (True, (1, 1)),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_display_matrices(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    swapped, (bottom, right) = MATRICES[matrix]
    path = set_display_matrix(write_video(tmp_path / "a.mp4"), matrix)
    video = load_video(path, 2)
    height, width = (64, 48) if swapped else (48, 64)
    assert video.frames.shape == (2, height, width, 3)
    assert (video.metadata.height, video.metadata.width) == (height, width)
    header = look_over(path)
    assert (header.height, header.width) == (height, width)
    ys = [slice(0, 8), slice(height - 8, height)]
    xs = [slice(0, 8), slice(width - 8, width)]
    for y in (0, 1):
        for x in (0, 1):
            light = video.frames[0, ys[y], xs[x]].mean() > 200
            assert light == ((y, x) == (bottom, right))


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")


def pictures(count: int, mode: str = "RGB") -> list[Image.Image]:
    return [Image.new(mode, (64, 48), (25 * i, 0, 0, 128)[: len(mode)]) for i in range(count)]


@needs_avif
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_animated_avif_moves(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.avif"
    first, *others = pictures(10, mode)
    first.save(path, save_all=True, append_images=others, duration=100)
    video = load_video(path, 10)
    assert video.frames[..., 0].mean(axis=(1, 2)) == pytest.approx([25 * i for i in range(10)], abs=12)
    assert video.times == pytest.approx([0.1 * i for i in range(10)])


@needs_avif
@pytest.mark.parametrize("name", ["a.avif", "a.heic"])
def test_a_still_avif_is_an_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.avif"
    pictures(1)[0].save(path)
    data = path.read_bytes()
    (tmp_path / name).write_bytes(data.replace(b"ftypavif", b"ftypmif1") if name == "a.heic" else data)
    with pytest.raises(VideoError, match="an image, not a video"):
        load_video(tmp_path / name)


@pytest.mark.parametrize("name", ["a.ico", "a.bmp", "a.tiff", "a.webp", "a.tga", "a.jp2"])
def test_one_image_is_an_image(tmp_path: Path, name: str) -> None:
    pictures(1)[0].save(tmp_path / name)
    with pytest.raises(VideoError, match="an image, not a video"):
        load_video(tmp_path / name)


def test_an_animated_webp_says_what_to_do(tmp_path: Path) -> None:
    first, *others = pictures(4)
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=100)
    with pytest.raises(VideoError, match="an animated WebP, which cannot be decoded here; make it an mp4 or"):
        load_video(tmp_path / "a.webp")


@pytest.mark.parametrize("name", ["a.png", "a.apng"])
def test_an_animated_png_moves(tmp_path: Path, name: str) -> None:
    first, *others = pictures(10)
    first.save(tmp_path / name, "PNG", save_all=True, append_images=others, duration=100)
    video = load_video(tmp_path / name, 5)
    assert video.frames[:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]
    assert video.times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_jpeg_pictures_in_a_row_are_a_video(tmp_path: Path) -> None:
    """What cameras stream over HTTP, saved."""
    path = tmp_path / "a.mjpeg"
    shown = []
    for image in moving_frames(10):
        Image.fromarray(image).save(tmp_path / "one.jpg")
        shown.append((tmp_path / "one.jpg").read_bytes())
    path.write_bytes(b"".join(shown))
    assert load_video(path, 5).metadata.frames_indices == [0, 2, 4, 6, 8]


def test_a_gif_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "one.gif"
    pictures(1)[0].save(path)
    video = load_video(path)
    assert video.frames.shape == (1, 48, 64, 3)
    assert video.times == [0]
    assert video.metadata.fps > 0


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.ivf", "libvpx", {}),
        ("a.ivf", "libvpx-vp9", {}),
        ("a.asf", "wmv2", {}),
        ("a.wmv", "msmpeg4", {}),
    ],
)
def test_files_that_state_no_rate(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    video = load_video(write_frames(tmp_path / name, moving_frames(50), codec, **options), 5)
    assert video.metadata.frames_indices == [0, 10, 20, 30, 40]
    assert video.times == pytest.approx([0, 0.4, 0.8, 1.2, 1.6], abs=0.002)
    assert video.metadata.fps == pytest.approx(25, rel=0.03)


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx"), ("a.mkv", "libx264")])
def test_rates_that_vary(tmp_path: Path, name: str, codec: str) -> None:
    times = [0, 0.1, 0.4, 2, 2.5, 7, 7.3]
    video = load_video(write_times(tmp_path / name, times, codec), 7)
    assert video.times == pytest.approx(times, abs=0.002)
    assert video.metadata.fps == pytest.approx(6 / 7.3, rel=0.01)


def test_an_avi_of_a_varying_rate(tmp_path: Path) -> None:
    """It has packets without data where a frame is shown longer."""
    times = [0, 0.1, 0.4, 2, 2.5, 7, 7.3]
    path = write_times(tmp_path / "a.avi", times, "mpeg4")
    video = load_video(path, 7)
    assert video.times == pytest.approx(times, abs=0.05)
    part = load_video(path, 7, start=1.5, end=6)
    assert part.times == pytest.approx([2, 2.5], abs=0.05)
    assert np.array_equal(part.frames, video.frames[3:5])


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.nut", "a.wmv", "a.mp4", "a.ts"])
def test_a_file_that_begins_late_is_not_cut_short(tmp_path: Path, name: str) -> None:
    """Recorders keep the clock of the call: some containers count their duration from 0 all the same."""
    codec = {"a.webm": "libvpx", "a.wmv": "wmv2"}.get(name, "libx264")
    times = [60 + i / 25 for i in range(50)]
    video = load_video(write_times(tmp_path / name, times, codec), 5)
    assert video.times == pytest.approx([0, 0.4, 0.8, 1.2, 1.6], abs=0.002)
    assert video.metadata.duration == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("name", ["a.wmv", "a.mkv", "a.avi", "a.mp4", "a.ts"])
def test_a_video_of_one_frame(tmp_path: Path, name: str) -> None:
    codec = {"a.wmv": "wmv2", "a.avi": "mpeg4"}.get(name, "libx264")
    video = load_video(write_frames(tmp_path / name, moving_frames(1), codec))
    assert video.frames.shape == (1, 48, 64, 3)
    assert video.times == [0]


def test_a_container_without_an_index_is_decoded_straight_through(tmp_path: Path) -> None:
    video = load_video(write_frames(tmp_path / "a.swf", moving_frames(10), "flv"), 5)
    assert video.metadata.frames_indices == [0, 2, 4, 6, 8]
    assert video.times == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])


# --- which frames ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ten_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """250 frames, 25 a second."""
    folder = tmp_path_factory.mktemp("sampling")
    return write_frames(folder / "a.mp4", moving_frames(250), g="25", preset="ultrafast")


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({"fps": 1}, [25 * i for i in range(10)]),
        ({"fps": 0.5}, [50 * i for i in range(5)]),
        ({"fps": 0.01}, [0]),
        ({"fps": 2.5, "max_frames": 5}, [50 * i for i in range(5)]),
        ({"frames": 4, "start": 4}, [100, 137, 175, 212]),
        ({"frames": 4, "end": 4}, [0, 25, 50, 75]),
        ({"frames": 4, "start": 4, "end": 6}, [100, 112, 125, 137]),
        ({"fps": 2, "start": 4, "end": 6}, [100, 112, 125, 137]),
        ({"fps": 1, "start": 8, "end": 99}, [200, 225]),
        ({"frames": 9, "start": 9.96}, [249]),
        ({"frames": 9, "start": 5.001, "end": 5.002}, [125]),  # the frame that is shown then
    ],
)
def test_which_frames(ten_seconds: Path, settings: dict[str, Any], numbers: list[int]) -> None:
    video = load_video(ten_seconds, **settings)
    assert video.metadata.frames_indices == numbers
    assert video.times == pytest.approx([number / 25 for number in numbers])
    assert video.metadata.total_num_frames == 250


def test_every_frame_at_its_rate(ten_seconds: Path) -> None:
    assert len(load_video(ten_seconds, fps=25).frames) == 250
    assert len(load_video(ten_seconds, fps=1000).frames) == 250


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 2.5}, "frames must be a whole number, not 2.5"),
        ({"frames": True}, "frames must be a whole number, not True"),
        ({"max_frames": None, "fps": 1}, "max_frames must be a whole number, not None"),
        ({"fps": 0}, "fps must be above 0, not 0"),
        ({"fps": -1}, "fps must be above 0, not -1"),
        ({"fps": float("nan")}, "fps must be above 0, not nan"),
        ({"fps": "2"}, "fps must be a number above 0, not '2'"),
        ({"max_frames": 0, "fps": 1}, "max_frames must be at least 1, not 0"),
        ({"start": -1}, "start must be at least 0, not -1"),
        ({"start": float("inf")}, "start must be at least 0, not inf"),
        ({"end": 0}, "end must be above 0, not 0"),
        ({"start": 3, "end": 2}, r"end must be above start \(3\), not 2"),
        ({"frames": 8, "fps": 2}, "frames=8 and fps=2 exclude each other"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_video(tmp_path / "never-opened.mp4", **settings)


def test_a_start_behind_the_end(ten_seconds: Path) -> None:
    with pytest.raises(VideoError, match=r"a\.mp4: lasts 10\.00 s, so it has no frames from start=10 on"):
        load_video(ten_seconds, start=10)


def test_frames_of_a_stretch_are_those_of_the_file(ten_seconds: Path) -> None:
    whole = load_video(ten_seconds, 250).frames
    part = load_video(ten_seconds, 7, start=3.3, end=8.1)
    assert np.array_equal(part.frames, whole[part.metadata.frames_indices])


@pytest.mark.parametrize("frames_by", ["time", "change"])
@pytest.mark.parametrize(
    "settings",
    [
        {"start": 1, "end": 2.5},
        {"fps": 2, "start": 0.5},
        {"start": 3},
        {"end": 1.2},
        {"fps": 3, "max_frames": 9},
    ],
)
def test_a_stretch_of_a_file_cut_at_the_front(
    tmp_path: Path, settings: dict[str, Any], frames_by: FramesBy
) -> None:
    """Frames before the first whole picture do not come out, so times count from a later frame than packets
    say, and the rate varies."""
    steps = [0.5] * 8 + [0.04, 0.2, 0.1] * 20
    plain = write_times(tmp_path / "plain.mkv", np.cumsum(steps).tolist(), g="12", **OPEN)
    path = tmp_path / "a.mkv"
    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for i, packet in enumerate(one for one in reader.demux(video=0) if one.size):
            packet.stream, packet.dts = stream, i - 72
            if i:
                writer.mux(packet)
    whole = load_video(path, 999)
    times = np.array(whole.times)
    assert len(times) < 67
    part = load_video(path, 5 if "fps" not in settings else None, frames_by=frames_by, **settings)
    first, end = settings.get("start", 0), settings.get("end", 99)
    stretch = np.flatnonzero((times >= first) & (times < end))
    seconds = min(end, whole.metadata.duration) - first
    count = min(
        5 if "fps" not in settings else int(seconds * settings["fps"]), settings.get("max_frames", 768)
    )
    numbers = list(part.metadata.frames_indices or ())
    if frames_by == "time":
        assert numbers == [stretch[i] for i in spread(len(stretch), count)]
    assert len(numbers) == min(count, len(stretch))
    assert set(numbers) <= set(stretch.tolist())
    assert part.times == pytest.approx(times[numbers])
    assert np.array_equal(part.frames, whole.frames[numbers])
    again = list(iter_frames(path, 5 if "fps" not in settings else None, frames_by=frames_by, **settings))
    assert [number for batch in again for number in batch.metadata.frames_indices] == numbers
    assert np.array_equal(np.concatenate([batch.frames for batch in again]), part.frames)
