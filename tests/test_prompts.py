"""`holitom.prompt` on every family's own processor: all frames go in, at the times that the file states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.families import FAMILIES, small
from support.video_files import write_times, write_video

import holitom
from holitom import SettingsError, Video, VideoError
from holitom.errors import ModelError
from holitom.prompts import placeholders, prompts
from holitom.video import Sampling, load_sampled, load_video
from holitom.video.fitting import fit_of

ROOT = Path(__file__).parents[1]
STEADY = [8.0 * i for i in range(8)]
SLIDES = [0.0, 5.0, 15.0, 20.0, 31.5, 47.25, 52.0, 61.0]
GAPS = {"steady": STEADY, "slides": SLIDES}

QWEN3 = ("qwen3-vl", "qwen3-vl-moe", "qwen3.5", "qwen3.5-moe", "cosmos3")
GLM_SECONDS, GLM_TENTHS = ("glm-4.1v", "glm-4.5v"), ("glm-4.6v", "glm-ocr")
COUNTING = {
    "qwen2.5-vl": "second_per_grid_ts",
    "qwen2.5-omni": "video_second_per_grid",
    "qwen3-omni": "video_second_per_grid",
}
each_family = pytest.mark.parametrize("name", FAMILIES)


def processor_of(name: str) -> Any:
    """A fresh processor with a template of plain words and the family's own video."""
    family = small(name).family
    processor = family.processor()
    video = family.tokens.get("<video>", "<video>")
    length = " <|video_duration|>" if name == "hyperclova-x" else ""
    processor.chat_template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'video' %}}{{{{ '{video}{length} ' }}}}"
        "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    )
    return processor


def told(processor: Any, monkeypatch: pytest.MonkeyPatch, video: Any) -> tuple[str, Any]:
    """The text that a processor gives its tokenizer, and the inputs."""
    texts: list[str] = []
    kind = type(processor.tokenizer)
    call = kind.__call__

    def watched(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        texts.extend([text] if isinstance(text, str) else text or [])
        return call(self, text, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "__call__", watched)
        inputs = holitom.prompt(processor, video, "w1 w2")
    return max(texts, key=len), inputs


@each_family
def test_the_readmes_own_lines(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = small(name)
    frames, height, width = one.family.videos[0]
    file = write_video(tmp_path / "video.mp4", frames=frames, size=(width, height))
    blocks = (ROOT / "README.md").read_text().split("```python\n")
    code = next(block for block in blocks if "from_pretrained" in block).split("```")[0]
    for shown, real in {
        '"video.mp4"': repr(str(file)),
        '"cuda"': '"cpu"',
        "max_new_tokens=64": "max_new_tokens=2",
    }.items():
        assert shown in code
        code = code.replace(shown, real)
    processor = processor_of(name)
    monkeypatch.setattr(
        transformers.AutoModelForImageTextToText, "from_pretrained", lambda *args, **kwargs: one.model
    )
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *args, **kwargs: processor)
    names: dict[str, Any] = {}
    exec(code, names)
    usual = one.inputs("<video> w1", videos=[load_video(file).frames])
    assert names["run"].last.videos[0].tokens > names["run"].last.videos[0].sent > 0
    # As many frames as were read: none was sampled away.
    if "video_grid_thw" in usual:
        assert names["inputs"]["video_grid_thw"][:, 0].tolist() == usual["video_grid_thw"][:, 0].tolist()
    else:
        pixels = "pixel_values_videos" if "pixel_values_videos" in usual else "pixel_values"
        assert names["inputs"][pixels].shape == usual[pixels].shape
    assert capsys.readouterr().out


@each_family
@pytest.mark.parametrize("times", GAPS.values(), ids=GAPS)
def test_the_model_is_told_the_files_own_times(
    name: str, times: Sequence[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = load_video(write_times(tmp_path / "a.mkv", times))
    assert video.times == times
    text, inputs = told(processor_of(name), monkeypatch, video)
    pairs = list(zip(times[::2], times[1::2], strict=True))
    if name in QWEN3:
        found = re.findall(r"<([\d.]+) seconds>", text)
        assert found == [f"{(a + b) / 2:.1f}" for a, b in pairs]
    elif name in GLM_SECONDS:
        assert re.findall(r"<\|end_of_image\|>(\d+)", text) == [f"{int(a)}" for a, _ in pairs]
    elif name in GLM_TENTHS:
        assert re.findall(r"<\|end_of_image\|>([\d.]+) seconds", text) == [f"{a:.1f}" for a, _ in pairs]
    elif name == "videollama3":
        assert re.findall(r"Time ([\d.]+)s:", text) == [f"{t:.1f}" for t in times]
    elif name == "smolvlm2":
        stamps = [f"{int(t // 60):02d}:{int(t % 60):02d}" for t in times]
        assert re.findall(r"(?<!\d:)\b(\d\d:\d\d)\b(?!:\d)", text) == stamps
    elif name == "hyperclova-x":
        assert str(round(video.metadata.duration, 2)) in text
    elif name in COUNTING:
        seconds = (times[-1] - times[0]) / (len(times) - 1)
        assert inputs[COUNTING[name]].tolist() == pytest.approx([2 * seconds])
    else:
        assert not re.search(r"\d\d", text)  # this family tells no times


@pytest.mark.parametrize("name", COUNTING)
def test_each_video_of_a_batch_has_its_own_times(name: str, tmp_path: Path) -> None:
    videos = [
        load_video(write_times(tmp_path / f"{step}.mkv", [step * i for i in range(8)])) for step in (1, 8)
    ]
    rows = [[{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "w1"}]}]] * 2
    inputs = prompts(processor_of(name), rows, videos)
    assert inputs[COUNTING[name]].tolist() == pytest.approx([2, 16])


def test_a_prompt_leaves_the_video_as_it_was(tmp_path: Path) -> None:
    """Qwen3-VL's processor makes an odd number of frames even, in the list that it is given."""
    video = load_video(write_times(tmp_path / "a.mkv", STEADY[:5]))
    for _ in range(2):
        inputs = holitom.prompt(processor_of("qwen3-vl"), video, "w1")
    assert inputs["video_grid_thw"][0, 0] == 3
    assert video.metadata.frames_indices == [0, 1, 2, 3, 4]


@each_family
def test_a_placeholder_in_a_question_is_refused(name: str) -> None:
    processor = processor_of(name)
    marks = placeholders(processor)
    frames = small(name).video()
    own = [getattr(processor, kind, None) for kind in ("video_token", "image_token")]
    assert {mark for mark in own if mark} <= marks
    assert marks
    for mark in marks:
        with pytest.raises(SettingsError, match=f"the question holds {re.escape(mark)}"):
            holitom.prompt(processor, frames, f"w1 {mark} w2")


def test_what_is_refused_needs_no_file() -> None:
    with pytest.raises(SettingsError, match="the question holds <video>"):
        holitom.prompt(processor_of("llava-onevision"), "nowhere.mp4", "what is <video>?")
    with pytest.raises(SettingsError, match="no UTF-8"):
        holitom.prompt(processor_of("llava-onevision"), "nowhere.mp4", "what is \udcff?")
    tokenizer = processor_of("llava-onevision").tokenizer
    with pytest.raises(ModelError, match="takes no videos"):
        holitom.prompt(tokenizer, "nowhere.mp4", "what?")
    bare = small("llava-video").family.processor()
    with pytest.raises(ModelError, match="no chat template"):
        holitom.prompt(bare, "nowhere.mp4", "what?")


def test_frames_of_any_kind() -> None:
    processor = processor_of("qwen3-vl")
    frames = small("qwen3-vl").video()
    wanted = holitom.prompt(processor, frames, "w1", fps=4)
    from PIL import Image

    for same in (list(frames), torch.from_numpy(frames), [Image.fromarray(frame) for frame in frames]):
        inputs = holitom.prompt(processor, same, "w1", fps=4)
        assert torch.equal(inputs["pixel_values_videos"], wanted["pixel_values_videos"])
        assert torch.equal(inputs["input_ids"], wanted["input_ids"])


@each_family
def test_a_single_frame_is_a_video(name: str) -> None:
    """Also to processors whose towers take two together, some of which refuse one."""
    one = small(name)
    inputs = holitom.prompt(processor_of(name), one.video()[:1], "w1 w2").to(one.model.dtype)
    with holitom.HoliTom(0.5)(one.model) as run, torch.no_grad():
        assert one.model(**inputs).logits.isfinite().all()
    assert run.last is not None
    (video,) = run.last.videos
    assert video.steps == 1
    assert 1 <= video.remaining <= video.tokens


@each_family
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(6, 38, 66), (5, 150, 90)], ids=str)
def test_frames_are_resized_as_they_are_read_to_the_bytes_of_the_whole_video(
    name: str, shape: tuple[int, int, int], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    file = write_video(tmp_path / "a.mp4", frames=shape[0], size=shape[:0:-1])
    processor = processor_of(name)
    inputs = holitom.prompt(processor, file, "w1 w2")
    kept = load_sampled(file, Sampling(), fit=fit_of(processor))
    whole = load_video(file)
    assert kept.times == whole.times
    assert kept.fitted is not name.startswith("minicpm")  # which cuts frames first
    assert kept.fitted or np.array_equal(kept.frames, whole.frames)
    later = holitom.prompt(processor, whole, "w1 w2")  # frames that were read in full size
    monkeypatch.setattr("holitom.prompts.fit_of", lambda processor: lambda *size: None)
    wanted = holitom.prompt(processor, whole, "w1 w2")
    assert inputs.keys() == later.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(torch.as_tensor(inputs[key]), torch.as_tensor(value)), key
        assert torch.equal(torch.as_tensor(later[key]), torch.as_tensor(value)), key


def test_the_number_of_frames_decides_their_size(tmp_path: Path) -> None:
    """Where a video has a budget of pixels for all of its frames."""
    processor = processor_of("qwen3-vl")
    sizes = {
        fit_of(processor)(count, 720, 1280)(np.zeros((720, 1280, 3), np.uint8), 0).shape for count in (2, 64)
    }
    assert len(sizes) == 2


def test_a_path_is_sampled(tmp_path: Path) -> None:
    processor = processor_of("qwen3-vl")
    file = write_video(tmp_path / "a.mp4", frames=24)  # three seconds
    for settings, count in (({"frames": 4}, 4), ({"fps": 2}, 6), ({}, 24)):
        inputs = holitom.prompt(processor, str(file), "w1", **settings)
        assert inputs["video_grid_thw"][0, 0] == count // 2


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), {}, "uint8 RGB"),
        (np.zeros((2, 3, 8, 8), np.uint8), {}, "uint8 RGB"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, "uint8 RGB"),
        ([], {}, "frames must be"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((4, 8, 3), np.uint8)], {}, "of one size"),
        ([Image.new("HSV", (8, 8))], {}, "not of mode HSV: convert"),
        ([Image.new("RGBA", (8, 8))], {}, "not of mode RGBA"),
        (3, {}, "frames must be"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"fps": 0}, "fps must be above 0, not 0"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"fps": "4"}, "fps must be a number above 0, not '4'"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"frames": 1}, "frames=1 samples a file"),
    ],
)
def test_frames_that_are_none(frames: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        holitom.prompt(processor_of("llava-onevision"), frames, "w1", **settings)


def test_a_shape_that_the_processor_refuses_is_a_bad_video() -> None:
    """So that `holitom compare` goes on with the next question."""
    thin = np.zeros((4, 800, 2, 3), np.uint8)
    with pytest.raises(VideoError, match="absolute aspect ratio must be smaller than 200"):
        holitom.prompt(processor_of("qwen3-vl"), thin, "w1")


def test_plain_metadata_will_do() -> None:
    from transformers.video_utils import VideoMetadata

    video = Video(small("qwen3-vl").video(), VideoMetadata(16, 4.0, frames_indices=list(range(0, 16, 2))))
    inputs = holitom.prompt(processor_of("qwen2.5-vl"), video, "w1")
    assert inputs["second_per_grid_ts"].tolist() == pytest.approx([1.0])
