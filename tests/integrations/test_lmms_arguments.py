"""What the lmms-eval integration does without lmms-eval: arguments, messages, stops, the task's files."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from holitom import HoliTom, SettingsError
from holitom.ask import load_model, prompt
from holitom.bench import moving_digits as md
from holitom.bench.questions import held_out_questions
from holitom.bundled import BUNDLED_MODEL, DEMO_QUESTION, DEMO_VIDEO
from holitom.cli import main
from holitom.errors import UnsupportedUsageError
from holitom.integrations.lmms_eval.arguments import read_arguments
from holitom.integrations.lmms_eval.generation import Generation, Until
from holitom.integrations.lmms_eval.messages import read_messages
from holitom.integrations.lmms_eval.task import score, share, write_lossless, write_task
from holitom.methods import METHODS, PyramidDrop, VisionZip, get_method
from holitom.video import Sampling, load_video


def test_without_arguments_it_is_holitom_on_the_bundled_model() -> None:
    arguments = read_arguments({})
    assert arguments.method == HoliTom()
    assert Path(arguments.pretrained) == BUNDLED_MODEL
    assert (arguments.max_frames_num, arguments.batch_size) == (32, 1)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_by_its_name(name: str) -> None:
    assert read_arguments({"method": name}).method == get_method(name)


def test_settings_of_the_method_go_to_the_method_and_the_rest_to_the_run() -> None:
    given = {
        "pretrained": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "retain_ratio": 0.25,
        "similarity_threshold": 0.7,
        "inner_layer": 12,
        "max_frames_num": 64,
        "dtype": "float16",
        "batch_size": "8",  # as lmms-eval passes --batch_size on
    }
    arguments = read_arguments(given)
    assert arguments.method == HoliTom(0.25, similarity_threshold=0.7, inner_layer=12)
    assert arguments.pretrained == "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    assert (arguments.max_frames_num, arguments.dtype, arguments.batch_size) == (64, "float16", 8)


def test_frames_by_change() -> None:
    assert read_arguments({"max_frames_num": 8, "frames_by": "change"}).sampling == Sampling(
        8, frames_by="change"
    )
    with pytest.raises(SettingsError, match="frames_by must be time or change, not 'colour'"):
        read_arguments({"frames_by": "colour"})


def test_full_runs_the_model_as_it_comes() -> None:
    assert read_arguments({"method": "full"}).method is None


@pytest.mark.parametrize("off", [{"inner_drop": "none"}, {"inner": False}])
def test_holitom_without_its_inner_merge(off: dict[str, Any]) -> None:
    assert read_arguments({"retain_ratio": 0.2, **off}).method == HoliTom(0.2, inner_drop=None)


def test_inner_adds_holitom_s_inner_merge_to_another_method() -> None:
    method = read_arguments({"method": "visionzip", "retain_ratio": 0.25, "inner": True}).method
    assert method == VisionZip(0.25).with_inner(HoliTom())


def test_a_method_is_written_as_on_the_command_line() -> None:
    method = read_arguments({"method": "visionzip[dominant_ratio=0.5]+inner", "retain_ratio": 0.25}).method
    assert method == VisionZip(0.25, dominant_ratio=0.5).with_inner(HoliTom())
    plus = read_arguments({"method": "holitom-plus", "inner": False}).method
    assert plus == get_method("holitom-plus", inner_drop=None)


def test_a_list_is_written_as_json() -> None:
    method = read_arguments({"method": "pdrop", "borders": "[0.5, 0.75]", "retain_ratio": 0.6}).method
    assert method == PyramidDrop(0.6, borders=(0.5, 0.75))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "holytom"}, "unknown method 'holytom'; known: holitom, .*, full"),
        ({"retain_ratio": 2}, r"retain_ratio must be a number in \(0, 1\], got 2"),
        ({"retain_ratio": "ten"}, "retain_ratio must be .* got 'ten'"),
        ({"retain": 0.1}, "unknown model argument 'retain'; known: method, pretrained.* retain_ratio"),
        ({"method": "fastv", "similarity_threshold": 0.8}, "unknown .* fastv takes inner, retain_ratio"),
        ({"method": "full", "retain_ratio": 0.1}, "unknown .* full takes no other"),
        ({"method": "full", "inner": True}, "full keeps every token.* an inner stage needs another method"),
        ({"method": "fastv", "inner": True}, "FastV has inner stages of its own"),
        ({"method": "flashvid", "inner": True}, "FlashVID has inner stages of its own"),
        ({"method": "fastv", "inner": False}, "FastV works inside the language model alone"),
        ({"method": "evs[retain_ratio=0.2]", "retain_ratio": 0.1}, "retain_ratio is set twice"),
        ({"inner": "maybe"}, "inner must be true or false"),
        ({"max_frames_num": 0}, "max_frames_num must be a whole number of at least 1, got 0"),
        ({"batch_size": "auto"}, "batch_size must be a whole number of at least 1, got 'auto'"),
        ({"device": "cuda:1", "device_map": "auto"}, "either device or device_map"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_arguments(given)


def test_messages_are_separated_from_their_media(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "grey.png")
    picture = Image.new("RGB", (2, 2))
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "video", "url": "one.mp4"},
                {"type": "image", "url": str(tmp_path / "grey.png")},
                {"type": "image", "url": picture},
                {"type": "text", "text": "Same?"},
            ],
        },
    ]
    question = read_messages("t, document 0", messages)
    assert question.conversation == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "video"},
                {"type": "image"},
                {"type": "image"},
                {"type": "text", "text": "Same?"},
            ],
        },
    ]
    assert question.videos == [Path("one.mp4")]
    assert [(image.mode, image.size) for image in question.images] == [("RGB", (4, 4)), ("RGB", (2, 2))]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio", "url": "song.wav"},
        {"type": "video", "url": {"url": "long.mp4", "video_start": 3}},
        {"type": "video", "url": "long.mp4", "start_time": 3.0, "end_time": 5.0},
        {"type": "image", "url": "missing.png"},
    ],
)
def test_media_that_it_cannot_show_are_refused_by_name(part: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedUsageError, match="t, document 7: "):
        read_messages("t, document 7", [{"role": "user", "content": [part]}])


def test_generation_arguments() -> None:
    benchmarks = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    greedy = Generation.read({**benchmarks, "until": ["\n\n"]})
    assert greedy.stops == ("\n\n",)
    assert greedy.arguments == {
        "max_new_tokens": 16,
        "num_beams": 1,
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    sampled = Generation.read({"temperature": 0.7, "top_p": 0.9, "until": None}).arguments
    assert (sampled["do_sample"], sampled["temperature"], sampled["top_p"]) == (True, 0.7, 0.9)
    assert Generation.read({"do_sample": True, "temperature": 0}).arguments["do_sample"] is False
    assert Generation.read({}).arguments["do_sample"] is False


def test_an_answer_ends_before_its_first_stop_string() -> None:
    generation = Generation.read({"until": ["Q:", "\n\n"]})
    assert generation.cut("A\n\nB Q: C") == "A"
    assert generation.cut("A Q: C\n\n") == "A "
    assert generation.cut("A\nB") == "A\nB"


def test_generation_ends_at_a_stop_string_inside_a_token() -> None:
    model, processor = load_model(str(BUNDLED_MODEL))
    inputs = prompt(processor, load_video(DEMO_VIDEO, 16), DEMO_QUESTION).to(model.device, model.dtype)
    length = inputs["input_ids"].shape[1]

    def generate(stops: list[str]) -> tuple[str, int]:
        criteria = [Until(processor.tokenizer, stops, length)] if stops else None
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False, stopping_criteria=criteria)
        return processor.decode(ids[0, length:], skip_special_tokens=True), ids.shape[1] - length

    whole, tokens = generate([])
    assert tokens == 2  # a word and the end of the turn
    assert generate([whole[1:-1]]) == (whole, 1)
    assert generate(["flashes", "digit"]) == (whole, 2)  # in the question and nowhere: neither ends it


def test_the_documented_template_is_the_prompt_of_the_paper_s_harness() -> None:
    processor = load_model(str(BUNDLED_MODEL))[1]
    template = (Path(__file__).parents[2] / "docs/qwen_1_5.jinja").read_text()
    content = [{"type": "video"}, {"type": "text", "text": "Who?\nAnswer with a letter."}]
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True
    )
    assert rendered == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<video>\nWho?\nAnswer with a letter.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_lossless_video_gives_every_frame_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (5, 34, 26, 3), dtype=np.uint8)
    for index, frames in enumerate([noise, md.sample("test", 3, 16).frames]):
        path = tmp_path / f"{index}.mkv"
        write_lossless(path, frames)
        assert np.array_equal(load_video(path, 32).frames, frames)


def test_the_task_asks_what_the_bench_asks_of_the_same_frames(tmp_path: Path) -> None:
    task = write_task(tmp_path / "a folder", per_task=2)
    rows = [json.loads(line) for line in (task.parent / "questions.jsonl").read_text().splitlines()]
    items = held_out_questions(2)
    assert [(row["task"], row["question"], row["answer"]) for row in rows] == [item[1:] for item in items]
    for row, item in zip(rows, items, strict=True):
        frames = md.sample("test", item.video, 16).frames
        assert np.array_equal(load_video(row["video"], 32).frames, frames)
    assert json.dumps(str(task.parent / "questions.jsonl")) in task.read_text()


def test_the_command_that_writes_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "lmms-task", str(tmp_path / "task"), "--per-task", "1"]) == 0
    assert f"--include_path {tmp_path / 'task'} --tasks moving_digits_qa" in capsys.readouterr().out
    assert main(["bench", "lmms-task", str(tmp_path), "--per-task", "0"]) == 2
    (tmp_path / "file").touch()
    assert main(["bench", "lmms-task", str(tmp_path / "file"), "--per-task", "1"]) == 2


def test_an_answer_counts_for_its_own_task_and_for_all() -> None:
    asked = [
        score({"task": "count", "answer": "two"}, [" two\n"]),
        score({"task": "count", "answer": "two"}, ["three"]),
        score({"task": "needle", "answer": "ring"}, ["ring"]),
    ]
    assert all(list(row) == ["accuracy", *md.TASKS] for row in asked)
    shares = {metric: share([row[metric] for row in asked]) for metric in ("accuracy", "count", "needle")}
    assert shares == {"accuracy": pytest.approx(2 / 3), "count": 0.5, "needle": 1.0}


def test_without_lmms_eval_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "holitom.integrations.lmms_eval.model"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for module in ["lmms_eval", *(module for module in sys.modules if module.startswith("lmms_eval."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'holitom\[lmms-eval\]'"):
        importlib.import_module(name)
