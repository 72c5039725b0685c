"""Whatever way a file is read, its frames are byte for byte those of decoding it straight through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.straight_decode import check, straight
from support.video_files import moving_frames, patch_box, remux, write_frames, write_times

from holitom import SettingsError, Video, VideoError, iter_frames, load_video
from holitom.video import packets
from holitom.video.decoding import UntrustedError
from holitom.video.reading import Source
from holitom.video.upright import Picture

X264 = {"g": "12", "preset": "veryfast", "sc_threshold": "0"}
OPEN = {**X264, "x264-params": "open-gop=1:bframes=3:log-level=none"}


@pytest.fixture(params=[1, 3], ids=["one decoder", "several"])
def decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of decoders that read the stretches of a file."""
    monkeypatch.setattr("holitom.video.decoders.cores", lambda: request.param)
    monkeypatch.setattr("holitom.video.decoders.WORTH", 1)
    count: int = request.param
    return count


@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize(
    ("name", "codec", "options", "seeks"),
    [
        ("a.mp4", "libx264", X264, True),
        ("a.mkv", "libx264", X264, True),
        ("a.ts", "libx264", X264, True),
        ("a.flv", "libx264", X264, True),
        (
            "pyramid.mp4",
            "libx264",
            {**X264, "g": "16", "bf": "8", "x264-params": "log-level=none:b-pyramid=normal"},
            True,
        ),
        ("plain.mp4", "libx264", {**X264, "bf": "0"}, True),
        ("every.mp4", "libx264", {**X264, "g": "1"}, True),
        (
            "closed.mp4",
            "libx265",
            {"g": "12", "preset": "ultrafast", "x265-params": "log-level=none:open-gop=0"},
            True,
        ),
        ("leading.mp4", "libx265", {"g": "12", "preset": "ultrafast", "x265-params": "log-level=none"}, True),
        ("a.webm", "libvpx", {"g": "12"}, True),
        ("hidden.webm", "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}, True),
        (
            "nine.webm",
            "libvpx-vp9",
            {"g": "12", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "12"},
            True,
        ),
        ("one.mp4", "libsvtav1", {"g": "12", "preset": "12"}, True),
        ("a.mov", "mjpeg", {}, True),
        ("lossless.mkv", "ffv1", {"g": "4"}, False),
        ("a.avi", "mpeg4", {"bf": "2"}, False),
        ("a.mpg", "mpeg2video", {"bf": "2"}, False),
        ("a.gif", "gif", {}, False),
        ("open.mp4", "libx264", OPEN, False),
        ("lone.mp4", "libx264", {**X264, "g": "999"}, False),
        ("refresh.mp4", "libx264", {**X264, "x264-params": "intra-refresh=1:log-level=none"}, False),
        ("reordered.avi", "libx264", X264, False),
    ],
)
def test_every_kind_of_file(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], seeks: bool
) -> None:
    path = write_frames(tmp_path / name, moving_frames(72), codec, **options)
    for video in check(path, (1, 3, 5, 72)):
        reading = video.reading
        assert reading is not None
        if not seeks:
            assert reading.seeks <= 1
            assert reading.note
    assert (reading.note is None) == seeks
    few = load_video(path, 3).reading
    assert few is not None
    assert (few.seeks > 1) == seeks
    assert str(few).startswith(f"{few.decoded} packets decoded for 72 frames")


def test_little_else_is_decoded(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mp4", moving_frames(240), **X264)
    reading = load_video(path, 4).reading
    assert reading is not None
    assert reading.seeks == 4
    assert reading.decoded <= 16 + 3 * 12


# --- files that lie -------------------------------------------------------------------------------------


def wrong_marks(path: Path) -> Path:
    """Every picture is marked as a keyframe."""

    def mark(packet: Any, i: int) -> None:
        packet.is_keyframe = True

    return remux(write_frames(path.with_name("honest.mkv"), moving_frames(72), **X264), path, mark)


def no_marks(path: Path) -> Path:
    """No picture is marked as a keyframe, so that nothing can be sought."""

    def mark(packet: Any, i: int) -> None:
        packet.is_keyframe = False

    return remux(write_frames(path.with_name("honest.mkv"), moving_frames(72), **X264), path, mark)


def wrong_sync_table(path: Path) -> Path:
    """An mp4 whose table of keyframes names pictures that are none."""
    write_frames(path, moving_frames(72), **X264)
    return patch_box(path, b"stss", {16: 8, 20: 20})  # of 1, 13, 25, ...: the second and the third


def no_sync_table(path: Path) -> Path:
    """An mp4 without that table, which says that all are keyframes."""
    write_frames(path, moving_frames(72), **X264)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"stss", b"free"))
    return path


def wrong_cues(path: Path) -> Path:
    """A Matroska index whose times are those of other places."""
    write_frames(path, moving_frames(240), **X264)
    data = bytearray(path.read_bytes())
    begin = data.rindex(b"\x1c\x53\xbb\x6b")
    at, places = begin, []
    while (at := data.find(b"\xb3\x82", at + 1)) > 0:
        places.append(at + 2)
    times = [bytes(data[place : place + 2]) for place in places]
    assert len(times) > 8
    for place, time in zip(places, reversed(times), strict=True):
        data[place : place + 2] = time
    path.write_bytes(data)
    return path


def swapped(path: Path, codec: str = "libx264", **options: str) -> Path:
    """Every fifth frame has the timestamp of the next one, and the other way round."""
    plain = write_frames(path.with_name(f"plain{path.suffix}"), moving_frames(72), codec, **options or X264)
    with av.open(str(plain)) as container:
        stamps = sorted(packet.pts for packet in container.demux(video=0) if packet.size)
    other = dict(zip(stamps, stamps, strict=True))
    for i in range(20, 70, 5):
        other[stamps[i]], other[stamps[i + 1]] = stamps[i + 1], stamps[i]

    def swap(packet: Any, i: int) -> None:
        packet.pts = other[packet.pts]
        if path.suffix == ".webm":
            packet.dts = i - 72
        else:  # so early that each is decoded before it is shown
            packet.dts -= 8 * packet.duration

    return remux(plain, path, swap)


def swapped_hevc(path: Path) -> Path:
    return swapped(path, "libx265", g="12", preset="ultrafast", **{"x265-params": "log-level=none:bframes=3"})


def swapped_vp9(path: Path) -> Path:
    return swapped(path, "libvpx-vp9", g="12", **{"cpu-used": "8"})


def pieces(path: Path) -> Path:
    """Parameter sets in a packet of their own, which shows nothing."""
    options = {"g": "12", "preset": "ultrafast", "x265-params": "log-level=none:open-gop=0:repeat-headers=1"}
    plain = write_frames(path.with_name("plain.mkv"), moving_frames(72), "libx265", **options)
    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for i, packet in enumerate(one for one in reader.demux(video=0) if one.size):
            data = bytes(packet)
            sets = 0
            while data[sets + 4] >> 1 & 63 in (32, 33, 34):  # units with lengths of four bytes
                sets += 4 + int.from_bytes(data[sets : sets + 4], "big")
            for begin, end in pairwise((0, sets, len(data)) if i == 24 else (0, len(data))):
                part = av.Packet(data[begin:end])
                part.stream, part.time_base, part.is_keyframe = stream, packet.time_base, packet.is_keyframe
                part.pts, part.dts = packet.pts - (end < len(data)), 2 * i - 144 + bool(begin)
                writer.mux(part)
    return path


def spliced(path: Path) -> Path:
    """HEVC whose third entry is marked as a broken link: decoders drop the leading pictures behind it."""
    options = {"g": "12", "preset": "ultrafast", "x265-params": "log-level=none:bframes=3"}
    write_frames(path, moving_frames(72), "libx265", **options)
    with av.open(str(path)) as container:
        entries = [packet for packet in container.demux(video=0) if packet.is_keyframe and packet.size]
        places = [(packet.pos, bytes(packet)) for packet in entries]
    data = bytearray(path.read_bytes())
    begin, packet = places[2]
    at = 0
    while packet[at + 4] >> 1 & 63 != 21:  # a CRA picture
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    data[begin + at + 4] = 16 << 1
    path.write_bytes(data)
    return path


def hidden(path: Path) -> Path:
    """HEVC in which every fifth picture is decoded and never shown (pic_output_flag is 0)."""
    options = {
        "preset": "ultrafast",
        "x265-params": "log-level=none:keyint=1:no-sao=1:no-deblock=1:no-wpp=1:pools=none:repeat-headers=1",
    }
    plain = write_frames(path.with_name("plain.ts"), moving_frames(72), "libx265", **options)

    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for i, packet in enumerate(one for one in reader.demux(video=0) if one.size):
            part = av.Packet(_with_output_flag(bytes(packet), i % 5 != 3))
            part.stream, part.time_base, part.is_keyframe = stream, packet.time_base, packet.is_keyframe
            part.pts, part.dts = packet.pts, packet.dts
            writer.mux(part)
    return path


def _with_output_flag(packet: bytes, shown: bool) -> bytes:
    """Add pic_output_flag to the slice header of an IDR picture, and what announces it to its parameter
    set."""
    units = [bytearray(unit) for unit in re.split(b"\0\0\0?\1", packet)[1:]]
    for unit in units:
        kind = unit[0] >> 1 & 63
        if kind == 34:
            unit[2] |= 0x10  # output_flag_present_flag
        if kind in (19, 20):
            data = bytes(unit[2:]).replace(b"\0\0\3", b"\0\0")
            head = f"{int.from_bytes(data[:4], 'big'):032b}"
            assert head.startswith("101011")  # first slice, parameter set 0, an I slice
            end = 7 + 2 * head[6:].index("1")  # the quality in Exp-Golomb code is all that follows
            assert head[end] == "1"  # and fills up the byte
            bits = head[:6] + str(int(shown)) + head[6:end] + "1"
            bits += "0" * (-len(bits) % 8)
            coded = int(bits, 2).to_bytes(len(bits) // 8, "big") + data[end // 8 + 1 :]
            unit[2:] = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", coded)
    return b"".join(b"\0\0\0\1" + bytes(unit) for unit in units)


def other_settings(path: Path) -> Path:
    """Two recordings in one FLV, of which the second has other parameter sets under the same numbers."""
    parts = [
        write_frames(path.with_name(f"{i}.flv"), moving_frames(40), **X264, bf="0", **more).read_bytes()
        for i, more in enumerate(({}, {"coder": "0", "trellis": "0"}))
    ]
    data = bytearray(parts[0][:13])
    for i, part in enumerate(parts):
        at = 13
        while at < len(part):  # tags: kind, size (3), time (3 and 1), stream (3), data, size of the tag
            tag = bytearray(part[at : at + 15 + int.from_bytes(part[at + 1 : at + 4], "big")])
            tag[4:7] = (int.from_bytes(tag[4:7], "big") + 1600 * i).to_bytes(3, "big")
            at += len(tag)
            if tag[12] != 2:  # no end of a sequence
                data += tag
    path.write_bytes(data)
    return path


def edited(path: Path) -> Path:
    """An mp4 whose edit list begins at the seventh frame."""
    write_frames(path, moving_frames(72), **X264)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16
    ticks = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (ticks + 6 * 512).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def headless(path: Path) -> Path:
    """An open group of pictures without its beginning."""
    write_frames(path, moving_frames(72), **OPEN)
    path.write_bytes(path.read_bytes()[188 * 40 :])
    return path


def twice(path: Path) -> Path:
    """Two recordings behind one another: timestamps jump back."""
    write_frames(path, moving_frames(40), **X264)
    path.write_bytes(path.read_bytes() * 2)
    return path


def cuts(path: Path) -> Path:
    """Two recordings that were cut at an open group of pictures, joined: a decoder drops frames."""
    options = {"g": "12", "preset": "ultrafast", "x265-params": "log-level=none:bframes=3:open-gop=1"}
    plain = write_frames(path.with_name("plain.ts"), moving_frames(72), "libx265", **options)
    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        stream, keyframes = writer.add_stream_from_template(reader.streams.video[0]), 0
        for packet in (one for one in reader.demux(video=0) if one.size):
            keyframes += packet.is_keyframe
            if keyframes > 2:
                packet.stream = stream
                writer.mux(packet)
    path.write_bytes(path.read_bytes() * 2)
    return path


def shared_times(path: Path) -> Path:
    """Pairs of frames with one timestamp."""

    def pair(packet: Any, i: int) -> None:
        packet.pts = packet.dts = packet.pts // 80 * 80

    plain = write_frames(path.with_name("plain.mkv"), moving_frames(72), **X264, bf="0")
    return remux(plain, path, pair)


@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize(
    ("name", "make", "note"),
    [
        ("marks.mkv", wrong_marks, None),  # the marks are looked through
        ("none.mkv", no_marks, "a seek fails"),
        ("sync.mp4", wrong_sync_table, None),
        ("free.mp4", no_sync_table, None),
        ("cues.mkv", wrong_cues, ""),  # found by reading on, or decoded straight through
        ("edited.mp4", edited, "edit list"),
        ("headless.ts", headless, "does not begin with a whole picture"),
        ("twice.ts", twice, "timestamp"),
        ("cuts.ts", cuts, "share a timestamp"),
        ("shared.mkv", shared_times, "share a timestamp"),
        ("swapped.mp4", swapped, "in another order"),
        ("swapped_hevc.mp4", swapped_hevc, "in another order"),
        ("swapped.webm", swapped_vp9, "jump back"),
        ("pieces.mkv", pieces, None),
        ("spliced.mp4", spliced, None),
        ("hidden.ts", hidden, "order of its frames cannot be read"),
        ("settings.flv", other_settings, "settings change"),
    ],
)
def test_a_file_that_lies(tmp_path: Path, name: str, make: Callable[[Path], Path], note: str | None) -> None:
    for video in check(make(tmp_path / name)):
        times = np.diff(video.times)
        assert (times >= 0).all()
    reading = load_video(tmp_path / name, 3).reading
    assert reading is not None
    assert reading.note is None if note is None else note in (reading.note or "")


def test_a_pyav_that_shows_no_settings_reads_straight_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV before 16; containers that hold no settings beside packets are read as ever."""
    monkeypatch.setattr(packets, "SHOWN", False)
    for video in check(other_settings(tmp_path / "a.flv")):
        assert video.reading is not None
        assert "need PyAV 16" in (video.reading.note or "")
    assert all(not (video.reading and video.reading.note) for video in check(wrong_marks(tmp_path / "a.mkv")))


def test_batches_that_a_straight_decode_numbers_otherwise_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch was read by the packets' table, and what comes behind it shows that the table is
    wrong."""
    path = write_frames(tmp_path / "a.mp4", moving_frames(72), **X264)
    by_table = Source._by_table

    def lies(self: Source, *args: Any) -> Iterator[Picture]:
        for picture in by_table(self, *args):
            if picture.number > 12:
                raise UntrustedError("frames come out otherwise")
            other = replace(picture, frame=av.VideoFrame(64, 48, "yuv420p"))
            yield picture if picture.number < 12 else other

    monkeypatch.setattr(Source, "_by_table", lies)
    batches = iter_frames(path, 12, batch=3)
    assert next(batches).metadata.frames_indices == [0, 6, 12]
    with pytest.raises(VideoError, match=r"a\.mp4: frames come out otherwise; use load_video"):
        next(batches)
    assert load_video(path, 12).metadata.frames_indices == list(range(0, 72, 6))


def test_batches_of_a_file_that_turns_out_shorter_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wanted frames are all there, but of fewer frames others would have been chosen."""
    path = write_frames(tmp_path / "a.mp4", moving_frames(72), **X264)
    by_table, decoded = Source._by_table, Source._decoded

    def ends(self: Source, *args: Any) -> Iterator[Picture]:
        for picture in by_table(self, *args):
            if picture.number > 12:
                raise UntrustedError("frames come out otherwise")
            yield picture

    monkeypatch.setattr(Source, "_by_table", ends)
    monkeypatch.setattr(Source, "_decoded", lambda self, *args: islice(decoded(self, *args), 67))
    batches = iter_frames(path, 12, batch=3)
    assert next(batches).metadata.frames_indices == [0, 6, 12]
    with pytest.raises(VideoError, match=r"a\.mp4: has other frames than its packets state; use load_video"):
        list(batches)
    assert load_video(path, 12).metadata.frames_indices == [i * 67 // 12 for i in range(12)]


def test_a_stream_that_changes_size(tmp_path: Path) -> None:
    parts = [
        write_frames(tmp_path / f"{width}.ts", moving_frames(20, width, height), **X264)
        for width, height in ((64, 48), (128, 96), (48, 64))
    ]
    path = tmp_path / "call.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for video in check(path):
        assert video.frames.shape[1:] == (48, 64, 3)


@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {**X264, "movflags": "faststart"}),
        ("a.ts", "libx264", X264),
        ("a.flv", "libx264", X264),
        ("open.mkv", "libx264", OPEN),
        ("a.webm", "libvpx", {"g": "12"}),
        ("a.avi", "mpeg4", {"bf": "2"}),
    ],
)
def test_a_damaged_packet_is_an_error_or_the_frames_of_a_straight_decode(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    """A decoder conceals damage by what it decoded before, which must not depend on where decoding began."""
    noise = np.random.default_rng(0)
    path = write_frames(tmp_path / name, moving_frames(72), codec, **options)
    data = path.read_bytes()
    read = 0
    for _ in range(8):
        hurt = bytearray(data)
        at = int(noise.integers(len(data) // 20, len(data) - 16))
        hurt[at : at + 8] = noise.bytes(8)
        path.write_bytes(hurt)
        try:
            video = load_video(path, 5)
        except VideoError as error:
            assert str(error).startswith(path.name)  # noqa: PT017
            continue
        try:
            wanted = straight(path)
        except av.error.InvalidDataError:
            continue  # what is damaged was not needed
        assert np.array_equal(video.frames, wanted[video.metadata.frames_indices])
        batches = list(iter_frames(path, 5, batch=2))
        assert np.array_equal(np.concatenate([batch.frames for batch in batches]), video.frames)
        read += 1
    assert read >= 4


def test_damage_is_told(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mp4", moving_frames(72), **X264)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        key = [packet for packet in container.demux(video=0) if packet.is_keyframe][2]
        begin, size = key.pos, key.size
    data[begin + size // 2 : begin + size] = b"\xaa" * (size - size // 2)
    path.write_bytes(data)
    reading = check(path)[-1].reading
    assert reading is not None
    assert reading.note == "parts of it are damaged"


# --- batches --------------------------------------------------------------------------------------------


def test_batches_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mp4", moving_frames(240), **X264)
    batches: Iterator[Video] = iter_frames(path, 20, batch=8)
    first = next(batches)
    assert len(first.frames) == 8
    assert first.reading is not None
    assert first.reading.decoded < 120
    assert [len(batch.frames) for batch in batches] == [8, 4]


@pytest.mark.parametrize("batch", [0, -1, 1.5])
def test_batches_of_nothing(tmp_path: Path, batch: Any) -> None:
    with pytest.raises(SettingsError, match="batch must be a whole number from 1 on"):
        iter_frames(tmp_path / "never-opened.mp4", batch=batch)


# --- times ----------------------------------------------------------------------------------------------


def stamps(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pts = [frame.pts for frame in container.decode(stream)]
        return [float((one - pts[0]) * stream.time_base) for one in pts]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mov"])
@pytest.mark.parametrize("steps", [[0.04] * 20, [0.02, 0.5, 3, 0.1, 7, 0.04, 1]], ids=["steady", "varying"])
def test_times_are_the_files_own(tmp_path: Path, name: str, steps: list[float]) -> None:
    path = write_times(tmp_path / name, np.cumsum([0.0, *steps]).tolist())
    video = load_video(path, 6)
    every = stamps(path)
    assert video.times == pytest.approx([every[i] for i in video.metadata.frames_indices], abs=1e-9)
    assert video.metadata.timestamps == video.times
    assert video.metadata.total_num_frames == len(steps) + 1
    # How long the last frame stands is the container's word: its own step, or the longest before it.
    assert sum(steps) < video.metadata.duration <= sum(steps) + max(steps) + 0.1


def test_the_rate_of_a_slide_show_is_counted(tmp_path: Path) -> None:
    metadata = load_video(write_times(tmp_path / "slides.mkv", [0, 5, 15, 20]), 4).metadata
    assert metadata.timestamps == [0, 5, 15, 20]
    assert metadata.fps == pytest.approx(3 / 20)
    assert metadata.duration > 20
