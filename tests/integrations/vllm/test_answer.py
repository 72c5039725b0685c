"""`holitom answer`: a file of questions, answered in order by the engine, with bad files among them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.serving import Transformers, encode, environment, squares

from holitom import load_video
from holitom.bench.cases import Case
from holitom.bundled import DEMO_QUESTION, DEMO_VIDEO
from holitom.cli import main
from holitom.integrations.vllm import offline

ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 4,
    "block_size": 32,
}
OPTIONS = ["--retain", "0.1", "--reuse", "--max-new-tokens", "4", "--engine", json.dumps(ENGINE)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Questions about the demo and another video, a corrupt and a missing one among them."""
    shutil.copy(DEMO_VIDEO, tmp_path / "demo.mp4")
    (tmp_path / "broken.mp4").write_bytes(bytes(range(256)) * 40)
    asked = [
        ("demo.mp4", DEMO_QUESTION, "ring"),
        ("broken.mp4", DEMO_QUESTION, None),
        ("demo.mp4", "How many scenes are there?", None),
        ("missing.mp4", DEMO_QUESTION, None),
        ("squares.mp4", DEMO_QUESTION, None),
    ]
    lines = [
        {"video": video, "question": question} | ({} if answer is None else {"answer": answer})
        for video, question, answer in asked
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[offline.Setup], offline.Engine]]:
    """One engine for all runs of this file."""
    made: list[offline.Engine] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment(), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}.items():
            patch.setenv(name, value)
        own = offline.Engine

        def once(setup: offline.Setup) -> offline.Engine:
            if not made:
                made.append(own(setup))
            return made[0]

        yield once


@pytest.fixture
def run(
    start: Callable[[offline.Setup], offline.Engine], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> Callable[..., tuple[int, str, str]]:
    def ran(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(offline, "Engine", start)
        code = main(["answer", *map(str, arguments), *OPTIONS])
        return code, *capfd.readouterr()

    return ran


def records(file: Path) -> list[dict[str, Any]]:
    head, *lines = file.read_text().splitlines()
    assert list(json.loads(head)) == ["holitom answer"]
    return [json.loads(line) for line in lines]


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_a_file_is_answered_in_order_as_by_transformers(
    run: Any, folder: Path, transformers_path: Transformers
) -> None:
    (folder / "squares.mp4").write_bytes(encode(squares(1)))
    code, out, err = run(folder / "q.jsonl")
    assert code == 2
    assert "broken.mp4" in err, "the run stops at the first bad file"
    assert [record["index"] for record in records(folder / "q.answers.jsonl")] == [0]

    code, out, _ = run(folder / "q.jsonl", "--skip-bad", "--json")
    assert code == 1
    found = json.loads(out.splitlines()[-1])
    assert (found["questions"], found["answered"], found["judged"], found["right"]) == (5, 3, 1, 1)
    assert [(failed["index"], Path(failed["video"]).name) for failed in found["errors"]] == [
        (1, "broken.mp4"),
        (3, "missing.mp4"),
    ]
    made = records(folder / "q.answers.jsonl")
    assert [record["index"] for record in made] == [0, 1, 2, 3, 4]
    path = transformers_path.with_reuse()
    for index in (0, 2, 4):
        video = load_video(made[index]["asked"]["video"], 16).frames
        expected = path.ask(made[index]["asked"]["question"], videos=[video])
        assert made[index]["answer"] == expected.text
        assert made[index]["prompt_tokens"] == expected.prompt_tokens

    # Mended files are asked again, and nothing else: the other records stay as they are.
    for name in ("broken.mp4", "missing.mp4"):
        shutil.copy(DEMO_VIDEO, folder / name)
    code, out, _ = run(folder / "q.jsonl", "--json")
    assert code == 0
    again = records(folder / "q.answers.jsonl")
    assert [again[index] for index in (0, 2, 4)] == [made[index] for index in (0, 2, 4)]
    assert again[1]["answer"] == again[3]["answer"] == made[0]["answer"]
    assert again[3]["cached_tokens"] > 0, "it shows the same video"


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_and_parts_make_the_whole(run: Any, folder: Path) -> None:
    for name in ("broken.mp4", "missing.mp4", "squares.mp4"):
        (folder / name).write_bytes(encode(squares(len(name))))
    assert run(folder / "q.jsonl")[0] == 0
    file = folder / "q.answers.jsonl"
    whole = records(file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:20])
    code, _, err = run(folder / "q.jsonl")
    assert code == 0
    assert "2 answered already" in err

    def said(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(record["asked"]["video"], record["answer"]) for record in found]

    assert said(records(file)) == said(whole)
    parts = []
    for part in (1, 2):
        assert run(folder / "q.jsonl", "--part", f"{part}/2")[0] == 0
        parts += records(folder / f"q.answers-{part}-of-2.jsonl")
    assert said(parts) == said(whole)
    # Answers of other settings are not mixed with these.
    assert run(folder / "q.jsonl", "--frames", 8)[0] == 2


@pytest.mark.vllm
def test_what_vllm_cannot_do_is_said_before_it_is_loaded(run: Any, folder: Path) -> None:
    for method, says in (("fastv", "paged KV cache"), ("prunevid", "depends on what the video shows")):
        code, _, err = run(folder / "q.jsonl", "--method", method)
        assert code == 2
        assert says in err
    assert not (folder / "q.answers.jsonl").exists()


def test_without_vllm_the_error_says_how_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(offline, "find_spec", lambda name: None)
    assert main(["answer", str(folder / "q.jsonl")]) == 1
    assert "pip install 'holitom[vllm]'" in capsys.readouterr().err
    assert not (folder / "q.answers.jsonl").exists()


def test_videos_are_read_by_change_where_that_is_asked() -> None:
    setup = offline.Setup("model", None, 4, 8, frames_by="change")
    with ThreadPoolExecutor(1) as pool:
        video = offline._Videos([Case(DEMO_VIDEO, DEMO_QUESTION)], setup.sampling, pool).take()
    assert video.times == load_video(DEMO_VIDEO, 4, frames_by="change").times


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--part", "0/2"], "such as 1/8, not '0/2'"),
        (["--part", "3/2"], "such as 1/8, not '3/2'"),
        (["--part", "half"], "such as 1/8, not 'half'"),
        (["--engine", "[1]"], "engine must be a JSON object"),
        (["--engine", "{"], "engine must be a JSON object"),
        (["--at-once", "0"], "at-once must be at least 1"),
        (["--frames", "0"], "frames must be at least 1"),
        (["--frames-by", "colour"], "frames_by must be time or change, not 'colour'"),
        (["--retain", "2"], "retain_ratio must be a number in (0, 1], got 2"),
    ],
)
def test_wrong_options_are_said_before_anything_is_read(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["answer", "no-such-file.jsonl", *options]) == 2
    assert says in capsys.readouterr().err
