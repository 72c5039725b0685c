"""From a file to an answer a batch of frames at a time: the whole video's answer, and no thread left."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import FAMILIES, small
from support.video_files import write_video
from test_prompts import processor_of

import holitom
from holitom import HoliTom, Method, VideoError
from holitom.ask import ask
from holitom.flow import Flowing, ask_file
from holitom.models import adapter_for
from holitom.prompts import asking
from holitom.video import Sampling, load_sampled, load_video, opened_source, reading
from holitom.video.fitting import fit_of
from holitom.video.streaming import AnewError, Stream, stream_of

WHOLE = ("llava-next-video", "smolvlm2", "videollama3", "minicpm-v-4.6", "minicpm-v-4.7")
"""Families whose processors look at all frames, or cut each; docs/video.md names them."""


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "holitom-reader"]


ONE_OF_EACH_KIND = (
    "llava-onevision",
    "llava-next-video",
    "internvl",
    "smolvlm2",
    "videollama3",
    "minicpm-v-4.6",
    "qwen2.5-vl",
    "qwen3-vl",
    "glm-4.1v",
)


@pytest.mark.parametrize(
    "name",
    [name if name in ONE_OF_EACH_KIND else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_the_answer_is_that_of_the_whole_video(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, processor = small(name), processor_of(name)
    _, height, width = one.family.videos[0]
    file = write_video(tmp_path / "a.mp4", frames=11, size=(width, height))
    method = HoliTom(0.5, tower_batch=4)
    whole = ask(one.model, processor, holitom.prompt(processor, load_video(file), "w1"), method, 4)
    encoded: list[int] = []
    encode = holitom.runtime.Handle.encode

    def watched(self: Any, given: Any, parts: Any) -> Any:
        encoded.append(parts.steps)
        return encode(self, given, parts)

    monkeypatch.setattr(holitom.runtime.Handle, "encode", watched)
    answer, video = ask_file(one.model, processor, file, "w1", method, Sampling(11), 4)
    assert answer.text == whole.text
    (found,), (wanted,) = answer.report.videos, whole.report.videos
    assert torch.equal(found.place, wanted.place)
    assert torch.equal(found.importance, wanted.importance)
    assert answer.report.prompt_tokens == whole.report.prompt_tokens
    assert video.times == load_video(file).times
    assert bool(encoded) is (name not in WHOLE)


def test_a_prompt_of_a_stream_is_that_of_the_whole_video(tmp_path: Path) -> None:
    """What the model is told beside the pixels, also of an odd number of frames."""
    processor, model = processor_of("qwen3-vl"), small("qwen3-vl").model
    file = write_video(tmp_path / "a.mp4", frames=7)
    stream = stream_of(opened_source(file, Sampling(7)), fit_of(processor))
    assert stream is not None
    flowing = Flowing.of(adapter_for(model), processor, stream, asking(processor, "w1"))
    assert flowing is not None
    wanted = holitom.prompt(processor, file, "w1", frames=7)
    for name, value in flowing.inputs.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(wanted[name])), name
    assert set(wanted) - set(flowing.inputs) == {"pixel_values_videos"}


def test_frames_by_change_are_those_of_the_whole_video(tmp_path: Path) -> None:
    one, processor = small("llava-onevision"), processor_of("llava-onevision")
    file, sampling = write_video(tmp_path / "a.mp4", frames=24), Sampling(5, frames_by="change")
    whole = load_video(file, 5, frames_by="change")
    answer, video = ask_file(one.model, processor, file, "w1", Method(0.5), sampling, 4)
    assert video.times == whole.times
    assert video.metadata.frames_indices == whole.metadata.frames_indices
    wanted = ask(one.model, processor, holitom.prompt(processor, whole, "w1"), Method(0.5), 4)
    assert answer.text == wanted.text


@pytest.mark.parametrize("settings", [{"reuse": True}, {"retain_ratio": 1.0}])
def test_every_setting_of_the_tower(settings: dict[str, Any], tmp_path: Path) -> None:
    one, processor = small("llava-onevision"), processor_of("llava-onevision")
    file = write_video(tmp_path / "a.mp4", frames=6)
    method = Method(**settings)
    whole = ask(one.model, processor, holitom.prompt(processor, file, "w1"), method, 4)
    answer, _ = ask_file(one.model, processor, file, "w1", method, Sampling(6), 4)
    assert answer.text == whole.text


@pytest.mark.parametrize(("cores", "threads", "left"), [(1, 1, 1), (2, 2, 1), (3, 1, 2), (8, 4, 4)])
def test_the_decoder_leaves_cores_to_a_tower_on_the_host(
    cores: int, threads: int, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, processor = small("llava-onevision"), processor_of("llava-onevision")
    file = write_video(tmp_path / "a.mp4", frames=6)
    used: list[tuple[str, int]] = []
    decode = reading.by_table

    def watched(container: Any, stream: Any, *args: Any) -> Any:
        used.append((str(stream.thread_type), stream.codec_context.thread_count))
        return decode(container, stream, *args)

    monkeypatch.setattr(reading, "by_table", watched)
    now, limits = [cores], []
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    made = Flowing.on

    def slowly(self: Any, device: Any, dtype: Any, ready: Any) -> Any:
        limits.append(now[-1])
        return made(self, device, dtype, ready)

    monkeypatch.setattr(Flowing, "on", slowly)
    monkeypatch.setattr(Stream, "reading", property(lambda stream: not limits))
    _, video = ask_file(one.model, processor, file, "w1", HoliTom(0.5), Sampling(6), 2)
    ((kind, count),) = used
    assert count == threads
    assert limits == [left]
    assert now[-1] == cores
    assert ("NONE" in kind) is (threads == 1)
    assert np.array_equal(video.frames, load_sampled(file, Sampling(6), fit=fit_of(processor)).frames)


def streamed(path: Path, frames: int = 8) -> Stream:
    source = opened_source(path, Sampling(frames))
    found = stream_of(source, fit_of(processor_of("llava-onevision")))
    assert found is not None
    return found


def test_frames_are_there_once_they_were_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=20)
    with streamed(path, 20) as stream:
        parts = [stream.part(first, first + 5) for first in range(0, 20, 5)]
        whole = stream.video
    assert np.array_equal(np.concatenate([part.frames for part in parts]), whole.frames)
    assert [time for part in parts for time in part.times] == load_video(path, 20).times == whole.times
    assert whole.fitted


def test_memory_holds_few_frames_in_full_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=60, size=(640, 480))
    full = 640 * 480 * 3
    with streamed(path, 60) as stream:
        tracemalloc.start()
        try:
            video = stream.video
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(video.frames) == 60
    assert peak < 8 * full  # of 60; the decoder's own are not counted


def test_leaving_ends_the_reading(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=40)

    def interrupted() -> None:
        with streamed(path, 40) as stream:
            stream.frames(0, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with streamed(path, 40):
        pass  # before a frame was asked for


def test_what_goes_wrong_while_reading_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", frames=20)

    def failing(done: int, of: int) -> None:
        if done > 10:
            raise VideoError("enough")

    one, processor = small("llava-onevision"), processor_of("llava-onevision")
    with pytest.raises(VideoError, match="enough"):
        ask_file(one.model, processor, path, "w1", Method(1.0), Sampling(20), 2, progress=failing)


def test_a_file_that_turns_out_otherwise_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream gives up where the whole-video way counts frames; the answer is still the file's."""
    from holitom.video.decoding import UntrustedError
    from holitom.video.reading import Source

    one, processor = small("llava-onevision"), processor_of("llava-onevision")
    path = write_video(tmp_path / "a.mp4", frames=12)
    wanted = ask(one.model, processor, holitom.prompt(processor, path, "w1"), Method(1.0), 4)
    pictures, tries = Source._by_table, []

    def lies(self: Source, *args: Any) -> Any:
        tries.append(1)
        for number, picture in enumerate(pictures(self, *args)):
            if number == 5:
                raise UntrustedError("frames come out otherwise than its timestamps say")
            yield picture

    monkeypatch.setattr(Source, "_by_table", lies)
    with streamed(path, 12) as stream, pytest.raises(AnewError):
        stream.frames(0, 12)
    answer, video = ask_file(one.model, processor, path, "w1", Method(1.0), Sampling(12), 4)
    assert answer.text == wanted.text
    assert video.reading is not None
    assert video.reading.note == "frames come out otherwise than its timestamps say"
    assert len(tries) == 2  # this test's stream and that of ask_file, which decodes straight through then


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    one, processor = small("llava-onevision"), processor_of("llava-onevision")
    path = write_video(tmp_path / "a.mp4", frames=30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError):
        ask_file(one.model, processor, path, "w1", Method(1.0), Sampling(30), 2)
