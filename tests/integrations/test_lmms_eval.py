"""lmms-eval itself runs the model: its own command, its registry, its requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from holitom import HoliTom, Method, SettingsError, UnsupportedModelError, UnsupportedUsageError, VideoError
from holitom.ask import load_model
from holitom.bench import moving_digits as md
from holitom.bench.accuracy import resumed, sweep
from holitom.bench.questions import Item, held_out_questions
from holitom.bench.settings import Setting
from holitom.bundled import BUNDLED_MODEL
from holitom.integrations.lmms_eval.task import write_lossless, write_task
from holitom.methods import VisionZip

pytestmark = [pytest.mark.lmms_eval, pytest.mark.timeout(1200)]  # importing the harness alone takes long

PER_TASK, BATCH = 5, 7


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"), PER_TASK)


# The command.


class Outcome(NamedTuple):
    answers: list[str]
    figures: dict[str, Any]
    throughput: dict[str, float]
    log: str


def run_harness(task: Path, output: Path, model_args: str, *launcher: str) -> Outcome:
    """`python -m lmms_eval` in a process of its own, without a network, and what it wrote."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", *launcher, *(["-m"] if launcher else []), "lmms_eval"),
            *("--model", "holitom", "--model_args", model_args, "--batch_size", str(BATCH)),
            *("--include_path", str(task.parent), "--tasks", task.stem),
            *("--output_path", str(output), "--log_samples"),
        ],
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(output / "hf"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        cwd=output,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert list(output.glob("**/*_results.json")), done.stdout[-5000:] + done.stderr[-5000:]
    results = json.loads(next(output.glob("**/*_results.json")).read_text())
    samples = next(output.glob("**/*_samples_*.jsonl")).read_text().splitlines()
    rows = sorted((json.loads(line) for line in samples), key=lambda row: row["doc_id"])
    assert [row["doc_id"] for row in rows] == list(range(len(rows)))  # each document is answered once
    return Outcome(
        [row["filtered_resps"].strip() for row in rows],
        results["results"][task.stem],
        results["throughput"],
        done.stdout,
    )


def of_the_bench(method: Method | None, folder: Path) -> tuple[list[str], list[int], list[Item]]:
    """What `holitom bench accuracy` gets for the same questions: answers and visual tokens."""
    items = held_out_questions(PER_TASK)
    model, processor = load_model(str(BUNDLED_MODEL))
    files = resumed(model, [Setting("asked", "asked", 1.0, method)], items, folder, BATCH)
    sweep(model, processor, files, items, BATCH)
    return [row.said for row in files[0].done], [row.levels[0].tokens for row in files[0].done], items


def check_same(got: Outcome, method: Method | None, folder: Path) -> None:
    said, tokens, items = of_the_bench(method, folder / "bench")
    assert got.answers == said
    right = np.array([answer == item.answer for answer, item in zip(said, items, strict=True)])
    assert got.figures["accuracy,none"] == pytest.approx(right.mean())
    for name in md.TASKS:
        of_task = right[[item.task == name for item in items]]
        assert got.figures[f"{name},none"] == pytest.approx(of_task.mean())
    assert got.throughput["avg_visual_tokens"] == pytest.approx(np.mean(tokens))
    assert got.throughput["avg_visual_tokens_full"] == 16 * 49 + 1


@pytest.mark.parametrize(
    ("model_args", "method"),
    [("method=full", None), ("method=holitom,retain_ratio=0.1", HoliTom(0.1))],
    ids=["full", "holitom"],
)
def test_the_harness_gets_the_bench_s_answers(
    task: Path, tmp_path: Path, model_args: str, method: Method | None
) -> None:
    check_same(run_harness(task, tmp_path, model_args), method, tmp_path)


@pytest.mark.slow
def test_two_processes_share_the_questions(task: Path, tmp_path: Path) -> None:
    """`accelerate launch`: answers are one process's, in order, each document's once."""
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    got = run_harness(task, tmp_path, "method=visionzip,retain_ratio=0.25,inner=true", *launcher)
    assert "Running on rank 0" in got.log
    assert "Running on rank 1" in got.log
    check_same(got, VisionZip(0.25).with_inner(HoliTom()), tmp_path)


# The model, with requests as the harness makes them.


@pytest.fixture(scope="module")
def lm() -> Any:
    from lmms_eval.models import get_model

    model = get_model("holitom").create_from_arg_string("retain_ratio=0.2,dtype=float32", {"batch_size": "4"})
    yield model
    model.clean()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three videos; the last one is shorter."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{index}.mkv" for index in range(3)]
    for index, path in enumerate(paths):
        write_lossless(path, md.sample("test", index, 16).frames[: 16 if index < 2 else 9])
    return [str(path) for path in paths]


def parts(*visuals: Any, text: str = "Which shape flashes?") -> list[dict[str, Any]]:
    """One user turn; a string is a video, anything else an image."""
    content = [{"type": "video" if isinstance(v, str) else "image", "url": v} for v in visuals]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def requests_for(lm: Any, kind: str, documents: list[Any], messages_of: Any, **generation: Any) -> list[Any]:
    from lmms_eval.api.instance import Instance

    lm.task_dict = {"t": {"test": documents}}
    generation = {"max_new_tokens": 4, "do_sample": False, "until": ["\n\n"], **generation}
    return [
        Instance(kind, ("", messages_of, dict(generation), index, "t", "test"), 0, metadata=metadata)
        for index in range(len(documents))
        for metadata in [{"task": "t", "doc_id": index, "repeats": 1}]
    ]


def ask(lm: Any, *conversations: list[dict[str, Any]], **generation: Any) -> list[Any]:
    requests = requests_for(lm, "generate_until", list(conversations), lambda doc: doc, **generation)
    return lm.generate_until(requests)


def test_a_mixed_batch_gives_each_question_its_own_answer(lm: Any, clips: list[str]) -> None:
    image = Image.fromarray(md.sample("test", 4, 1).frames[0])
    conversations = [
        parts(clips[0]),
        parts(clips[0], clips[1]),
        parts(image, text="Which digit is red?"),
        parts(text="How many scenes are there?"),
        parts(clips[2]),
        parts(image, clips[1], image),
        parts(clips[1], text="How many scenes are there?"),
    ]
    together = ask(lm, *conversations)
    alone = [ask(lm, conversation)[0] for conversation in conversations]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.token_counts for answer in together] == [answer.token_counts for answer in alone]
    assert all(answer.text for answer in together)


QWEN = """{% for part in messages[0]['content'] %}
{% if part['type'] == 'text' %} {{ part['text'] }}
{% else %} <|vision_start|> <|{{ part['type'] }}_pad|> <|vision_end|>
{% endif %}{% endfor %}"""


def test_another_family_answers_too(clips: list[str], tmp_path: Path) -> None:
    from lmms_eval.models import get_model
    from support import tiny_qwen

    tiny_qwen.save(tmp_path)
    (tmp_path / "qwen.jinja").write_text(QWEN)
    arguments = f"pretrained={tmp_path},retain_ratio=0.25,inner_layer=1,chat_template={tmp_path}/qwen.jinja"
    qwen = get_model("holitom").create_from_arg_string(arguments, {"batch_size": "4"})
    image = Image.fromarray(md.sample("test", 4, 1).frames[0])
    conversations = [
        parts(clips[0], text="w1 w2"),
        parts(clips[1], clips[0], text="w3"),
        parts(text="w4 w5 w6"),
        parts(image, clips[1], text="w7"),
        parts(clips[2], text="w8"),
    ]
    together = ask(qwen, *conversations)
    assert together == [ask(qwen, conversation)[0] for conversation in conversations]
    assert len({answer.text for answer in together}) > 1


def test_answers_come_in_the_order_of_the_requests(lm: Any, clips: list[str]) -> None:
    requests = [
        *requests_for(lm, "generate_until", [parts(clips[0])], lambda doc: doc, max_new_tokens=4),
        *requests_for(lm, "generate_until", [parts(clips[0])], lambda doc: doc, max_new_tokens=1),
    ] * 2
    long, short = (answer.token_counts.output_tokens for answer in lm.generate_until(requests[:2]))
    counts = [answer.token_counts.output_tokens for answer in lm.generate_until(requests)]
    assert counts == [long, short, long, short]
    assert short == 1 < long


def test_a_stop_string_ends_the_answer(lm: Any, clips: list[str]) -> None:
    whole = ask(lm, parts(clips[0]))[0].text
    assert ask(lm, parts(clips[0]), until=[whole[2:]])[0].text == whole[:2]


def test_rounds_go_on_until_the_task_says_so(lm: Any, clips: list[str]) -> None:
    seen: list[Any] = []

    def messages_of(doc: Any, round_idx: int = 0, previous_output: Any = None, **_: Any) -> Any:
        if not round_idx:
            return parts(clips[0])
        seen.append(list(previous_output))
        turn = parts(clips[0], text="How many scenes are there?")
        return turn, round_idx == 2, previous_output, None

    request = requests_for(lm, "generate_until_multi_round", [None], messages_of)
    first, second = lm.generate_until_multi_round(request)[0]
    assert [first] == [answer.text for answer in ask(lm, parts(clips[0]))]
    assert [second] == [answer.text for answer in ask(lm, parts(clips[0], text="How many scenes are there?"))]
    assert seen == [[first], [first, second]]


def test_a_missing_video_is_named_before_anything_is_answered(lm: Any, clips: list[str]) -> None:
    conversations = [*[parts(clips[0])] * 3, parts("/videos/gone.mp4")]
    requests = requests_for(lm, "generate_until", conversations, lambda doc: doc)
    before = lm._run.last
    with pytest.raises(VideoError, match=r"t, document 3: .*gone\.mp4: no such file"):
        lm.generate_until(requests)
    assert lm._run.last is before


def test_a_damaged_video_is_named(lm: Any, clips: list[str], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mkv"
    data = Path(clips[0]).read_bytes()
    damaged.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"t, document 1: damaged\.mkv: "):
        ask(lm, parts(clips[0]), parts(str(damaged)))


def test_videos_of_different_lengths_in_one_question_are_refused_by_name(lm: Any, clips: list[str]) -> None:
    with pytest.raises(UnsupportedUsageError, match="t, document 0: "):
        ask(lm, parts(clips[0], clips[2]))


def test_likelihood_tasks_are_refused(lm: Any) -> None:
    with pytest.raises(UnsupportedUsageError, match="generate_until"):
        lm.loglikelihood([])


def test_another_chat_template_asks_another_way(lm: Any, clips: list[str], tmp_path: Path) -> None:
    from lmms_eval.models import get_model

    template = tmp_path / "template.jinja"
    template.write_text("<video>Which shape flashes?<|im_end|>\n<|im_start|>assistant\n")
    arguments = f"retain_ratio=0.2,dtype=float32,device_map=auto,chat_template={template}"
    other = get_model("holitom").create_from_arg_string(arguments)
    count = ask(other, parts(clips[0], text="Never mind."))[0].token_counts.input_tokens
    assert count == 16 * 49 + 1 + len("Which shape flashes ? <|im_end|> <|im_start|> assistant".split())
    with pytest.raises(SettingsError, match=r"chat_template .*nowhere\.jinja: No such file"):
        get_model("holitom").create_from_arg_string(f"chat_template={tmp_path}/nowhere.jinja")


def test_an_unsupported_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    from lmms_eval.models import get_model
    from transformers import LlavaConfig

    LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="no adapter for a model of class Llava"):
        get_model("holitom").create_from_arg_string(f"pretrained={tmp_path}")


def test_a_value_out_of_range_is_refused_before_the_model_is_loaded() -> None:
    from lmms_eval.models import get_model

    with pytest.raises(SettingsError, match="retain_ratio must be"):
        get_model("holitom").create_from_arg_string("pretrained=nowhere,retain_ratio=2")


def test_cleaning_up_lets_go_of_the_model() -> None:
    from lmms_eval.models import get_model

    lm = get_model("holitom").create_from_arg_string("method=holitom", {"batch_size": 1})
    model = lm._model
    assert "get_video_features" in vars(model.model)
    lm.clean()
    assert "get_video_features" not in vars(model.model)
    assert not [value for value in vars(lm).values() if isinstance(value, torch.nn.Module)]
