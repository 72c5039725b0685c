"""`holitom compare`: a user's own questions with full and with merged tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.video_files import write_video

from holitom.bench.cases import Case, Results, read_cases
from holitom.bench.compare import alike, summary
from holitom.bundled import DEMO_VIDEO
from holitom.cli import main
from holitom.errors import SettingsError

DEMO = [
    ("Which shape flashes?", "ring"),
    ("Where is the white digit at the start?", "top right"),
    ("Which shape flashes?", None),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(DEMO_VIDEO, tmp_path / "demo.mp4")
    return tmp_path


def write(folder: Path, rows: list[dict[str, Any]], name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def demo_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"video": "demo.mp4", "question": question} for question, _ in DEMO]
    for row, (_, answer) in zip(rows, DEMO, strict=True):
        if answer is not None:
            row["answer"] = answer
    return rows


BY_CHANGE = ("--frames-by", "change")
FEW = ("--frames", 4)  # where it does not matter what is answered


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    fast = ("--dtype", "float32")  # bfloat16 is slow on most processors
    code = main(["compare", *fast, *map(str, arguments)])
    return code, *capsys.readouterr()


def test_both_ways_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = write(folder, demo_rows())
    code, out, err = run(capsys, questions, "--json", "--retain", 0.1)
    assert code == 0, err
    found = json.loads(out)
    assert (found["questions"], found["answered"], found["errors"]) == (3, 3, [])
    assert found["right"]["judged"] == 2
    assert found["right"]["full"] == 1.0
    assert found["visual_tokens"]["full"] == 16 * 49
    assert found["visual_tokens"]["remaining"] < found["visual_tokens"]["merged"] < 0.2 * 16 * 49
    assert found["same"] == 3 - len(found["differences"])
    assert found["agreement"] == found["same"] / 3
    assert found["ttft_ratio"] > 0
    assert found["output"] == str(folder / "mine.compare.jsonl")

    code, out, _ = run(capsys, questions, "--retain", 0.1)  # nothing is answered anew
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert f"{found['same']} of 3 answers are the same" in out
    assert "right, of 2" in out


def test_a_run_that_was_stopped_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, results = write(folder, demo_rows()), folder / "mine.compare.jsonl"
    assert run(capsys, questions, *FEW)[0] == 0
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:2]) + lines[2][:40])  # killed while it wrote the second answer
    code, _, err = run(capsys, questions, *FEW)
    assert code == 0
    assert "3 questions, 1 answered already" in err
    assert results.read_text().splitlines(keepends=True)[:2] == lines[:2]
    assert [json.loads(line)["index"] for line in results.read_text().splitlines()[1:]] == [0, 1, 2]

    monkeypatch.setattr("holitom.ask.load_model", lambda *_: pytest.fail("a model is loaded for nothing"))
    assert run(capsys, questions, *FEW)[0] == 0


def test_answers_of_other_settings_are_not_mixed_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = write(folder, demo_rows()[:1])
    assert run(capsys, questions, *FEW)[0] == 0
    for changed in (("--retain", 0.5), ("--frames", 8), ("--method", "evs"), ("--no-inner",), BY_CHANGE):
        code, out, err = run(capsys, questions, *FEW, *changed)
        assert (code, out) == (2, "")
        assert "holds the answers of other settings" in err
    other = write(folder, demo_rows()[1:2])
    code, _, err = run(capsys, other, *FEW)
    assert code == 2
    assert "holds the answers to other questions" in err


@pytest.mark.parametrize("content", [b"one line", b"two\nlines", b"two whole\nlines\n", b"\xff\xfe\0\1"])
def test_another_file_is_left_as_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    questions, other = write(folder, demo_rows()[:1]), folder / "other"
    other.write_bytes(content)
    code, out, err = run(capsys, questions, *FEW, "--output", other)
    assert (code, out) == (2, "")
    assert "holds the answers of other settings, or none" in err
    assert other.read_bytes() == content


def test_a_first_line_that_was_written_in_part_is_written_again(tmp_path: Path) -> None:
    path, cases = tmp_path / "r.jsonl", [Case(DEMO_VIDEO, "Which shape flashes?")]
    Results(path, {"model": "m"}, cases)
    whole = path.read_text()
    for half in ("", whole[:9], whole[:-1]):
        path.write_text(half)
        assert Results(path, {"model": "m"}, cases).open == [0]
        assert path.read_text() == whole


def test_a_video_that_cannot_be_read_stops_nothing_and_is_tried_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "late.mp4").write_text("no video " * 50)
    rows = [{"video": "late.mp4", "question": "Which shape flashes?"}, demo_rows()[0]]
    questions = write(folder, rows)
    code, out, _ = run(capsys, questions, "--json", *FEW)
    found = json.loads(out)
    assert (code, found["answered"]) == (1, 1)
    assert found["errors"][0]["error"].startswith("late.mp4: no readable video")
    write_video(folder / "late.mp4")
    code, out, _ = run(capsys, questions, "--json", *FEW)
    assert (code, json.loads(out)["answered"], json.loads(out)["errors"]) == (0, 2, [])


@pytest.mark.parametrize(("least", "code"), [(0.0, 0), (1.0, 1)])
def test_the_exit_code_says_whether_enough_is_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str], least: float, code: int
) -> None:
    """Of the demo's tokens one percent is too little for the place of a digit."""
    questions = write(
        folder, [demo_rows()[1], {"video": "demo.mp4", "question": "How many scenes are there?"}]
    )
    options = ("--method", "uniform", "--retain", 0.07, "--at-least", least)
    got, out, err = run(capsys, questions, *options)
    assert got == code, (out, err)
    if code:
        assert "Fewer than 100.0% of the answers are the same" in err
        assert "question  " in out  # where they differ


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "no questions; a line is"),
        (["nonsense"], "line 1: no JSON; it must be an object"),
        (["[1]"], "line 1: it must be an object"),
        (['{"video": "demo.mp4"}'], 'line 1: "question" is missing'),
        (['{"question": "What?"}'], 'line 1: "video" is missing'),
        (['{"video": "demo.mp4", "question": " "}'], "line 1: the question is empty"),
        (['{"video": "demo.mp4", "question": "a", "answer": 3}'], 'line 1: "answer" is no text'),
        (["", '{"video": "gone.mp4", "question": "a"}'], "line 2: .*gone.mp4: no such file"),
        (
            ['{"video": "demo.mp4", "question": "a", "anwser": "b"}'],
            '"anwser" is not read; is "answer" meant',
        ),
        (['{"Video": "demo.mp4", "question": "a"}'], '"Video" is not read; is "video" meant'),
        (['{"video": "demo.mp4", "question": "a", "start": 3}'], '"start" cannot be set for one question'),
    ],
)
def test_a_file_of_questions_that_is_not_written_so(folder: Path, lines: list[str], says: str) -> None:
    path = folder / "q.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SettingsError, match=says):
        read_cases(path)


def test_a_file_of_questions_from_another_program(folder: Path) -> None:
    """A byte order mark, line ends of two characters, a line separator inside a text, fields of its own."""
    path = folder / "q.jsonl"
    row = '{"id": 7, "task": "count", "video": "demo.mp4", "question": "a\u2028b"}\r\n'
    path.write_text(2 * row, encoding="utf-8-sig", newline="")
    assert [case.question for case in read_cases(path)] == ["a\u2028b"] * 2


@pytest.mark.parametrize(
    "options", [("--method", "full"), ("--at-least", 2), ("--retain", 0), ("--method", "fastv", "--inner")]
)
def test_bad_settings_are_reported_before_the_questions_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[object, ...]
) -> None:
    code, out, err = run(capsys, tmp_path / "gone.jsonl", *options)
    assert (code, out) == (2, "")
    assert err.count("holitom: error: ") == 1
    assert "gone.jsonl" not in err


def test_what_is_alike() -> None:
    assert alike("A red ring.", "a red  RING")
    assert alike("", " ")
    assert not alike("a red ring", "a ring")
    assert not alike("3", "three")
    assert alike("“ring”。", "*Ring*")
    assert alike("(-5).", "-5!")
    assert alike("red .", "red")
    for one, other in (("-5", "5"), (".5", "5"), ("5%", "5"), ("C++", "C"), ("?", "!"), ("-", "")):
        assert not alike(one, other), (one, other)


def test_a_summary_of_nothing(folder: Path) -> None:
    cases = read_cases(write(folder, demo_rows()))
    found = summary(Results(folder / "r.jsonl", {}, cases))
    assert (found["answered"], found["agreement"], found["ttft_ratio"]) == (0, None, None)
