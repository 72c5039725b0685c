"""The accuracy bench: the same questions for everyone, resumable, and never mixing two runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holitom import HoliTom, SettingsError
from holitom.ask import load_model
from holitom.bench import moving_digits as md
from holitom.bench.accuracy import resumed, sweep, tried
from holitom.bench.answers import Answered, Answers, ResultsError
from holitom.bench.questions import FRAMES, Item, batches, held_out_questions
from holitom.bench.scores import interval, prefill_operations, resampled_averages, results
from holitom.bench.settings import FULL, Setting, budgets
from holitom.bundled import BUNDLED_MODEL
from holitom.cli import main
from holitom.costs import Decoder, Layer, Level
from holitom.methods.choose import read_methods

Model = tuple[Any, Any]


@pytest.fixture(scope="module")
def bundled() -> Model:
    return load_model(str(BUNDLED_MODEL), "float32")  # bfloat16 is slow on most processors


@pytest.fixture(scope="module")
def settings(bundled: Model) -> list[Setting]:
    """Full tokens; outer, inner and both; one that reads keys; two that are refused."""
    wanted = read_methods("holitom,visionzip+inner,fastv,uniform,pdrop")
    return tried(budgets(wanted, [0.05]), *bundled)


@pytest.fixture(scope="module")
def swept(bundled: Model, settings: list[Setting], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small sweep: two questions a task, in two batches."""
    folder = tmp_path_factory.mktemp("swept")
    answer(bundled, settings, held_out_questions(2), folder)
    return folder


def answer(
    bundled: Model, settings: list[Setting], items: list[Item], folder: Path, batch: int = 4
) -> list[Answers]:
    files = resumed(bundled[0], settings, items, folder, batch)
    sweep(*bundled, files, items, batch)
    return files


# --- what is asked ----------------------------------------------------------------------------------


def test_questions_are_balanced_and_a_longer_list_begins_with_the_shorter_one_s_videos() -> None:
    few, more = held_out_questions(5), held_out_questions(10)
    assert {t: sum(i.task == t for i in few) for t in md.TASKS} == dict.fromkeys(md.TASKS, 5)
    assert set(few) <= set(more)
    assert len(set(more)) == len(more)


def test_a_task_has_the_same_questions_alone() -> None:
    together = [item for item in held_out_questions(3) if item.task in ("order", "needle")]
    assert held_out_questions(3, ("order", "needle")) == together


def test_development_questions_are_of_other_videos() -> None:
    items = held_out_questions(3, first_video=100_000)
    assert min(item.video for item in items) == 100_000
    assert {t: sum(i.task == t for i in items) for t in md.TASKS} == dict.fromkeys(md.TASKS, 3)


def test_questions_that_there_are_not() -> None:
    with pytest.raises(SettingsError, match=r"unknown task 'colour'; known: identity, .*scenes"):
        held_out_questions(3, ("order", "colour"))
    with pytest.raises(SettingsError, match="per_task must be"):
        held_out_questions(0)
    with pytest.raises(SettingsError, match="first_video must be"):
        held_out_questions(3, first_video=-1)


def test_a_batch_holds_whole_videos() -> None:
    items = [Item(video, "order", "", "") for video in (0, 0, 0, 1, 2, 2, 2, 2, 3)]
    assert [[item.video for item in batch] for batch in batches(items, 3)] == [
        [0, 0, 0],
        [1, 2, 2, 2, 2],
        [3],
    ]


# --- what is run ------------------------------------------------------------------------------------


def test_every_method_at_every_budget_by_falling_budget() -> None:
    found = budgets(read_methods("evs,holitom-outer,pdrop[retain_ratio=0.5]"), [0.1, 0.25, 0.1])
    assert [setting.title for setting in found] == [
        "full tokens",
        "PyramidDrop [retain_ratio=0.5] 50%",
        "EVS 25%",
        "HoliTom w/o M 25%",
        "EVS 10%",
        "HoliTom w/o M 10%",
    ]
    assert len({setting.slug for setting in found}) == 6
    assert all(setting.slug == Path(setting.slug).name for setting in found)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_budget_out_of_range_is_no_refusal_of_the_method_s(ratio: float) -> None:
    with pytest.raises(SettingsError, match=r"retain must be numbers in \(0, 1\]"):
        budgets(read_methods("evs"), [0.1, ratio])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dycoke", "retain_ratio must be in [0.25, 1], got 0.05"),  # on construction
        ("pdrop", "first 2 of 8 layers: retain_ratio must be above 0.25"),  # on attaching
        ("fastv[inner_layer=8]", "inner_layer must be in 1..7"),  # likewise
        ("uniform", "of 16 it can keep one, retain_ratio 0.0625 at the least"),  # on merging
    ],
)
def test_what_a_method_cannot_meet_is_refused_in_its_own_words(
    bundled: Model, name: str, reason: str
) -> None:
    full, refused, run = tried(budgets(read_methods(f"{name},holitom"), [0.05]), *bundled)
    assert full == FULL
    assert refused.method is None
    assert reason in str(refused.refused)
    assert run.method == HoliTom(0.05)
    assert run.refused is None


# --- answers ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_full_tokens_answer_and_the_count_is_the_prompt_s(bundled: Model, tmp_path: Path) -> None:
    items = held_out_questions(4)
    (file,) = answer(bundled, [FULL], items, tmp_path)
    right = [said.said == item.answer for said, item in zip(file.done, items, strict=True)]
    assert np.mean(right) > 0.6  # far above chance; the bench itself prints the figure
    assert all(said.levels == (Level(0, 16 * 49 + 1),) for said in file.done)


@pytest.mark.slow
def test_a_setting_answers_in_the_sweep_what_it_answers_alone(
    bundled: Model, settings: list[Setting], swept: Path, tmp_path: Path
) -> None:
    items = held_out_questions(2)
    running = [setting for setting in settings if not setting.refused]
    assert len(running) == 4
    for setting in running:
        (file,) = answer(bundled, [setting], items, tmp_path)
        assert file.path.read_bytes() == (swept / file.path.name).read_bytes()


def test_answers_are_those_of_the_stock_processor_and_generate(
    bundled: Model, settings: list[Setting], swept: Path
) -> None:
    """One question at a time, each with its own run of the vision tower."""
    model, processor = bundled
    items = held_out_questions(2)
    setting = next(setting for setting in settings if setting.name == "holitom")
    kept = [json.loads(line) for line in (swept / f"{setting.slug}.jsonl").read_text().splitlines()[1:]]
    for item, (said, levels) in zip(items, kept, strict=True):
        frames = md.sample("test", item.video, FRAMES).frames
        asked = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": item.text}]}]
        text = processor.apply_chat_template(asked, add_generation_prompt=True)
        inputs = processor(text=[text], videos=[frames], return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        with HoliTom(0.05)(model) as run, torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(new, skip_special_tokens=True).strip() == said
        video = run.last.videos[0]
        counts = [len(video.survivors(layer)) for layer in video.inner]
        assert [level[1] for level in levels] == [video.sent, *counts]
        assert [level[0] for level in levels] == [0, *video.inner]


def test_a_killed_run_goes_on_where_it_was(
    bundled: Model, settings: list[Setting], swept: Path, tmp_path: Path
) -> None:
    """One setting was cut inside its second batch, one inside a line, one had not begun, one was done."""
    items = held_out_questions(2)
    first = len(batches(items, 4)[0])
    whole = {path.name: path.read_text() for path in swept.glob("*.jsonl")}
    lines = {name: text.splitlines(keepends=True) for name, text in whole.items()}
    full, holitom, visionzip, fastv = (
        f"{name}.jsonl" for name in ("full@1.0", "holitom@0.05", "visionzip+inner@0.05", "fastv@0.05")
    )
    (tmp_path / full).write_text("".join(lines[full][: 1 + first + 1]))
    (tmp_path / holitom).write_text("".join(lines[holitom][: 1 + first])[:-3])
    (tmp_path / fastv).write_text(whole[fastv])

    files = resumed(bundled[0], settings, items, tmp_path, 4)
    assert {file.path.name: len(file.done) for file in files} == {
        full: first,
        holitom: 0,
        visionzip: 0,
        fastv: len(items),
    }
    steps: list[int] = []
    sweep(*bundled, files, items, 4, steps.append)
    assert sum(steps) == 3 * len(items) - first
    assert {path.name: path.read_text() for path in tmp_path.glob("*.jsonl")} == whole
    sweep(*bundled, resumed(bundled[0], settings, items, tmp_path, 4), items, 4, steps.append)
    assert sum(steps) == 3 * len(items) - first  # nothing was left to do


@pytest.mark.parametrize("other", ["questions", "setting", "dtype"])
def test_results_of_another_run_are_refused(bundled: Model, tmp_path: Path, other: str) -> None:
    items, setting = held_out_questions(1), Setting("x", "x", 0.1, HoliTom(0.10))
    resumed(bundled[0], [setting], items, tmp_path)
    model = bundled[0]
    if other == "questions":
        items = held_out_questions(2)
    elif other == "setting":
        setting = Setting("x", "x", 0.1, HoliTom(0.15))
    else:
        model = load_model(str(BUNDLED_MODEL))[0]
        setting = Setting("y", "y", 0.1, HoliTom(0.15))  # nor does a folder hold two models
    with pytest.raises(ResultsError, match=f"another run .*{other}"):
        resumed(model, [setting], items, tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json\n", "no answer"),
        ('["three"]\n', "no answer"),
        ('["three", []]\n', "no answer"),
        ("5\n", "no answer"),
        (8 * '["three", [[0, 5]]]\n', "more answers than there are questions"),
    ],
)
def test_files_that_something_else_wrote_to(bundled: Model, tmp_path: Path, line: str, message: str) -> None:
    items = held_out_questions(1)
    (file,) = resumed(bundled[0], [FULL], items, tmp_path)
    with file.path.open("a") as open_file:
        open_file.write(line)
    with pytest.raises(ResultsError, match=message):
        resumed(bundled[0], [FULL], items, tmp_path)


def test_another_file_among_the_answers(bundled: Model, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text("[1]\n")
    with pytest.raises(ResultsError, match=r"other\.jsonl is no file of this benchmark"):
        resumed(bundled[0], [FULL], held_out_questions(1), tmp_path)


def test_the_output_is_no_folder(bundled: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"output folder .*file"):
        resumed(bundled[0], [FULL], held_out_questions(1), tmp_path / "file")


# --- figures ----------------------------------------------------------------------------------------


def test_one_wrong_answer_of_two_by_hand() -> None:
    # Drawn are twice the wrong one, one of each, or twice the right one: chances 1/4, 1/2, 1/4.
    averages = resampled_averages(np.array([[True, True], [True, False]]), ["order", "order"], 4000)
    assert (averages[0] == 1).all()
    values, counts = np.unique(averages[1], return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert interval(averages[1] - averages[0]) == [-1, 0]


def test_questions_are_drawn_within_tasks_which_weigh_the_same() -> None:
    # All of the one task is right and all of the other wrong: whatever is drawn, the average is a half.
    tasks = ["order"] * 9 + ["needle"]
    averages = resampled_averages(np.array([[True] * 9 + [False]]), tasks, 500)
    assert np.allclose(averages, 0.5)


def test_draws_are_paired_and_seeded() -> None:
    rng = np.random.default_rng(1)
    right = rng.random((1, 60)) < 0.7
    tasks = ["order"] * 30 + ["count"] * 30
    same = resampled_averages(np.concatenate([right, right]), tasks, 300)
    assert (same[0] == same[1]).all()
    assert len(np.unique(same[0])) > 10
    assert (same[0] == resampled_averages(right, tasks, 300)[0]).all()
    assert (same[0] != resampled_averages(right, tasks, 300, seed=1)[0]).any()


def test_a_binomial_s_interval() -> None:
    # 80 of 100: the resampled average is Binomial(100, 0.8) / 100, whose quantiles are 0.72 and 0.87.
    right = np.array([[True] * 80 + [False] * 20])
    low, high = interval(resampled_averages(right, ["order"] * 100)[0])
    assert (low, high) == (pytest.approx(0.72, abs=0.011), pytest.approx(0.87, abs=0.011))


def test_prefill_is_the_mean_over_questions_of_what_each_layer_saw() -> None:
    # Width 2, FFN 5: n tokens cost 16 n + 4 n^2 + 20 n a layer: 144 for 3, 40 for 1, 88 for 2.
    answers = [Answered("", (Level(0, 3), Level(1, 1))), Answered("", (Level(0, 2),))]
    file = Answers(FULL, Path("x"), answers)
    assert prefill_operations(file, Decoder(2, (Layer(5),) * 3)) == ((144 + 2 * 40) + 3 * 88) / 2


@pytest.fixture(scope="module")
def scored(bundled: Model, settings: list[Setting], swept: Path) -> dict[str, Any]:
    items = held_out_questions(2)
    files = resumed(bundled[0], settings, items, swept, 4)
    found: dict[str, Any] = results(bundled[0], "the bundled model", items, settings, files, quick=True)
    return found


def test_results_hold_everything_that_was_run_and_refused(scored: dict[str, Any]) -> None:
    assert json.loads(json.dumps(scored)) == scored
    rows = {row["title"]: row for row in scored["settings"]}
    assert next(iter(rows)) == "full tokens"
    assert rows["full tokens"]["difference_interval"] == [0, 0]
    assert rows["full tokens"]["of_full_interval"] == [1, 1]
    assert rows["full tokens"]["prefill_share"] == 1
    assert "retain_ratio 0.0625" in rows["Uniform 5%"]["refused"]
    assert "average" not in rows["Uniform 5%"]
    row = rows["FastV 5%"]
    assert row["visual_tokens_share"] == 1
    assert row["visual_tokens_by_layer"] == [{"start": 0, "tokens": 785}, {"start": 2, "tokens": 39}]
    assert row["average"] == pytest.approx(np.mean(list(row["tasks"].values())))
    assert row["average_interval"][0] <= row["average"] <= row["average_interval"][1]
    assert row["difference"] == pytest.approx(row["average"] - rows["full tokens"]["average"])
    assert scored["questions"]["by_task"] == dict.fromkeys(md.TASKS, 2)
    assert scored["model"]["layers"] == 8
    assert {"torch", "transformers", "holitom", "python"} <= set(scored["versions"])
    assert scored["machine"]["processor"]


# --- the command ------------------------------------------------------------------------------------


def _heads(table: list[str]) -> int:
    """Number of lines of a printed table's head; its first row is that of full tokens."""
    return next(number for number, line in enumerate(table) if line.startswith("full tokens"))


def test_the_command_makes_tables_and_pictures_and_again_from_them(
    bundled: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    arguments = ["bench", "accuracy", "--methods", "holitom,uniform", "--retain", "0.25,0.05", "--tasks"]
    arguments += ["needle,order", "--per-task", "1", "--output", str(folder)]
    assert main(arguments) == 0
    table = capfd.readouterr().out
    first, second = (block.splitlines() for block in table.split("\n\n")[:2])  # it does not fit 80 columns
    heads = [line for block in (first, second) for line in block[: _heads(block)]]
    assert sorted(" ".join(heads).split()) == sorted(
        "GFLOPs ratio kept order needle average of full 95%".split()
    )
    rows = first[_heads(first) :]
    assert max(map(len, first + second)) <= 80
    assert [row.split("  ")[0] for row in rows] == [
        "full tokens", "HoliTom 25%", "Uniform 25%", "HoliTom 5%", "Uniform 5%",
    ]  # fmt: skip
    assert rows[-1].split()[2:4] == ["refused", "-"]
    assert "Uniform 5% refused: Uniform keeps whole frames" in table

    lines = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    found = json.loads((folder / "results.json").read_text())
    assert [line["label"] for line in lines] == ["full tokens", *(2 * ["HoliTom", "Uniform"])]
    assert lines[-1]["refused"] == found["settings"][-1]["refused"]
    assert lines[-1]["average"] == ""
    assert float(lines[1]["order"]) == found["settings"][1]["tasks"]["order"]
    assert float(lines[1]["of_full_low"]) == found["settings"][1]["of_full_interval"][0]
    pictures = {path: path.read_bytes() for path in folder.glob("*.svg")}
    assert len(pictures) == 2
    assert all(picture.startswith(b"<?xml") and b"</svg>" in picture for picture in pictures.values())

    for path in [*folder.glob("*.jsonl"), *pictures, folder / "results.csv"]:
        path.unlink()
    assert main(["bench", "accuracy", "--report", str(folder)]) == 0
    assert capfd.readouterr().out == table
    assert {path: path.read_bytes() for path in folder.glob("*.svg")} == pictures
    assert main(["bench", "accuracy", "--report", str(folder), "--markdown"]) == 0
    markdown = capfd.readouterr().out.splitlines()
    assert markdown[0] == "|  | GFLOPs | ratio | kept | order | needle | average | of full | 95% |"
    assert markdown[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert [line.split(" | ")[0] for line in markdown[2:7]] == [f"| {row.split('  ')[0]}" for row in rows]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--methods", "holitom[size=3]"], "no setting 'size'; it has"),
        (["--tasks", "colour"], "unknown task 'colour'"),
        (["--retain", "0.1,2"], "retain must be numbers in (0, 1]"),
        (["--retain", "0.1,some"], "retain must be numbers"),
        (["--per-task", "0"], "per_task must be"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--report", "nowhere"], "nowhere/results.json: no such file"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "accuracy", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_report_of_something_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text('{"loss": 3}')
    assert main(["bench", "accuracy", "--report", str(tmp_path)]) == 2
    assert "is no results file of this benchmark" in capfd.readouterr().err
