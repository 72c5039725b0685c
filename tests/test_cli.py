"""The command line as a script sees it: stdout, stderr and exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

import holitom
from holitom.bundled import BUNDLED_MODEL, DEMO_VIDEO
from holitom.cli import app, main
from holitom.methods import METHODS

SOURCE = Path(holitom.__file__).parents[1]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a failed command prints."""
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if line.startswith("holitom: error: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n")
        assert "Traceback" not in self.err
        return lines[0].removeprefix("holitom: error: ")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's architecture with random weights: it babbles, at once."""
    import tiny_llava

    folder = tmp_path_factory.mktemp("tiny")
    tiny_llava.save(tiny_llava.build(seed=0), folder)
    return folder


def shell(*arguments: object, cwd: Path | None = None) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "holitom", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


# --- what works -------------------------------------------------------------------------------------


def test_answer_alone_goes_to_stdout(run, checkpoint: Path) -> None:
    result = run("ask", DEMO_VIDEO, "Which digit is red?", "--model", checkpoint, "--max-new-tokens", 3)
    assert result.code == 0
    assert len(result.out.splitlines()) == 1
    assert "Decoding" not in result.out
    assert "demo.mp4: 32 of 32 frames, 448 x 448" in result.err


def test_json_is_one_object_with_the_documented_keys(run, checkpoint: Path) -> None:
    result = run(
        "ask",
        DEMO_VIDEO,
        "Which digit is red?",
        "--model",
        checkpoint,
        "--json",
        "--frames",
        16,
        "--retain",
        0.2,
    )
    assert result.code == 0
    assert result.out.count("\n") == 1
    record = json.loads(result.out)
    assert set(record) == {"video", "frames", "frame_indices", "question", "model", "runs"}
    assert record["frames"] == 16
    assert record["frame_indices"] == list(range(0, 32, 2))
    assert record["question"] == "Which digit is red?"
    (merged,) = record["runs"].values()
    assert set(merged) == {
        "answer",
        "new_tokens",
        "visual_tokens",
        "separators",
        "visual_tokens_remaining",
        "visual_tokens_before",
        "stages",
        "segments",
        "seconds",
        "ttft_seconds",
        "decode_tokens_per_second",
        "kv_cache_bytes",
        "kv_cache_bytes_full",
        "reuse",
    }
    assert merged["visual_tokens_before"] == 16 * 49
    assert 0.1 < merged["visual_tokens"] / (16 * 49) < 0.3
    assert 0 < merged["kv_cache_bytes"] < merged["kv_cache_bytes_full"]
    assert set(merged["seconds"]) == {"vision", "merging", "prefill", "decoding"}
    assert merged["segments"][0][0] == 0
    assert merged["segments"][-1][1] == 15


def test_compare_runs_full_tokens_beside_the_method(run, checkpoint: Path) -> None:
    result = run("ask", "--model", checkpoint, "--compare", "--json", "--frames", 8)
    runs = json.loads(result.out)["runs"]
    assert list(runs) == ["full", "holitom"]
    assert (runs["full"]["visual_tokens"], runs["full"]["separators"]) == (8 * 49, 1)  # the model's newline
    assert runs["holitom"]["visual_tokens"] < 0.25 * runs["full"]["visual_tokens"]
    assert runs["full"]["kv_cache_bytes"] == runs["full"]["kv_cache_bytes_full"]
    assert runs["holitom"]["kv_cache_bytes_full"] == pytest.approx(runs["full"]["kv_cache_bytes"], rel=0.05)


def test_compare_prints_both_side_by_side(run, checkpoint: Path) -> None:
    result = run("ask", "--model", checkpoint, "--compare", "--frames", 8, "--max-new-tokens", 4)
    assert result.code == 0
    heads = [line.split("  ")[0].strip() for line in result.out.splitlines()]
    parts = ("reading the file", "preprocessing", "vision tower", "file to first token")
    for row in ("answer", "visual tokens", *parts, "time to first token", "decoding", "KV cache"):
        assert row in heads, result.out
    assert "full tokens" in result.out
    assert re.search(r"visual tokens +392 +\d+ ", result.out)
    assert re.search(r"from layer \d+ on +392 +\d+ ", result.out)
    lines = result.out.splitlines()
    assert lines[0] == "question  Which shape flashes?"
    assert lines[1].startswith("answer    full tokens  ")
    assert max(map(len, lines)) <= 80
    assert re.search(r"KV cache +\d+\.\d\d MB +\d+\.\d\d MB +\d+\.\d%", result.out)


def test_compare_takes_every_step_anew_in_each_round(
    run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither column has the file, the processor's work or the tower for free."""
    import holitom.video

    load, read = holitom.video.load_sampled, []
    monkeypatch.setattr(
        holitom.video, "load_sampled", lambda *given, **named: read.append(1) or load(*given, **named)
    )
    result = run("ask", "--model", checkpoint, "--compare", "--json", "--frames", 4, "--max-new-tokens", 2)
    rounds = json.loads(result.out)["rounds"]
    assert {label: len(runs) for label, runs in rounds.items()} == {"full": 3, "holitom": 3}
    for each in (*rounds["full"], *rounds["holitom"]):
        parts = each["reading"] + each["preprocessing"] + each["ttft"]
        assert each["file_to_first_token"] == pytest.approx(parts)
        assert min(each.values()) > 0
    assert len(read) == 1 + 2 + 2 * 3  # for the line above the table, warm-up, three rounds of two


def test_full_tokens_alone(run, checkpoint: Path) -> None:
    result = run("ask", "--model", checkpoint, "--method", "full", "--json", "--frames", 4)
    (only,) = json.loads(result.out)["runs"].items()
    assert only[0] == "full"
    assert only[1]["visual_tokens"] == only[1]["visual_tokens_remaining"] == 4 * 49
    assert only[1]["separators"] == 1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_answers(run, checkpoint: Path, name: str) -> None:
    common = ("--model", checkpoint, "--json", "--frames", 8, "--retain", 0.5, "--max-new-tokens", 2)
    result = run("ask", "--method", name, *common)
    assert result.code == 0, result.err
    (report,) = json.loads(result.out)["runs"].items()
    assert report[0] == name
    assert report[1]["kv_cache_bytes"] < report[1]["kv_cache_bytes_full"]


def test_an_outer_method_with_holitoms_inner_merging(run, checkpoint: Path) -> None:
    common = ("--model", checkpoint, "--json", "--frames", 8, "--retain", 0.5, "--max-new-tokens", 2)
    outer, both = (run("ask", "--method", "evs", *common, *more) for more in [(), ("--inner",)])
    alone, combined = (json.loads(result.out)["runs"]["evs"] for result in (outer, both))
    assert alone["visual_tokens"] == combined["visual_tokens"] == 8 * 49 // 2
    assert combined["kv_cache_bytes"] < alone["kv_cache_bytes"]


def test_outer_merging_alone(run, checkpoint: Path) -> None:
    inner = run("ask", "--model", checkpoint, "--json", "--frames", 8)
    outer = run("ask", "--model", checkpoint, "--json", "--frames", 8, "--no-inner")
    inside, outside = (json.loads(r.out)["runs"]["holitom"] for r in (inner, outer))
    assert inside["visual_tokens"] == outside["visual_tokens"]
    assert inside["kv_cache_bytes"] < outside["kv_cache_bytes"]
    assert any("layer" in stage for stage in inside["stages"])
    assert inside["visual_tokens_remaining"] == list(inside["stages"].values())[-1] < inside["visual_tokens"]
    assert outside["visual_tokens_remaining"] == outside["visual_tokens"] == outside["stages"]["spatial"]
    assert not any("layer" in stage for stage in outside["stages"])


def test_brackets_in_names_are_no_markup(run, checkpoint: Path, tmp_path: Path) -> None:
    video = shutil.copy(DEMO_VIDEO, tmp_path / "[bold]a[x].mp4")
    result = run("ask", video, "Which [/y] digit?", "--model", checkpoint, "--frames", 2, "--compare")
    assert result.code == 0
    assert "[bold]a[x].mp4: 2 of 32 frames" in result.err


def test_a_file_name_that_is_not_utf_8(run, tmp_path: Path) -> None:
    output = tmp_path / b"caf\xe9.html".decode(errors="surrogateescape")
    result = run("inspect", DEMO_VIDEO, "-o", output, "--frames", 2)
    assert result.code == 0, result.err
    assert output.exists()
    assert result.out.startswith(str(tmp_path))


def test_more_frames_than_the_video_has(run, checkpoint: Path) -> None:
    result = run("ask", "--model", checkpoint, "--json", "--frames", 100, "--max-new-tokens", 1)
    assert json.loads(result.out)["frames"] == 32
    assert json.loads(result.out)["runs"]["holitom"]["decode_tokens_per_second"] is None


def test_words_that_the_model_has_no_tokens_for(run, checkpoint: Path) -> None:
    result = run("ask", DEMO_VIDEO, "Whither zebras?", "--model", checkpoint, "--frames", 2)
    assert result.code == 0
    assert "does not know some words" in result.err


@pytest.mark.skipif(not BUNDLED_MODEL.exists(), reason="the checkpoint is not in this checkout")
def test_the_demo_answers_right() -> None:
    result = shell("ask", "--json", "--compare")
    assert result.code == 0, result.err
    runs = json.loads(result.out)["runs"]
    assert runs["full"]["answer"] == runs["holitom"]["answer"] == "ring"
    assert runs["holitom"]["visual_tokens"] < 0.2 * runs["full"]["visual_tokens"]


# --- what cannot work -------------------------------------------------------------------------------


def test_no_arguments_prints_help(run) -> None:
    result = run()
    assert result.code == 0
    assert "ask" in result.out


@pytest.mark.parametrize("command", [(), ("ask",), ("bench",), ("bench", "speed"), ("methods",)])
def test_h_is_help(run, command: tuple[str, ...]) -> None:
    short, long = run(*command, "-h"), run(*command, "--help")
    assert (short.code, short.out) == (0, long.out)
    assert "Usage:" in short.out


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("group", [(), ("bench",)])
def test_lists_of_commands_are_not_cut(
    run, monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, listed = run(*group, "--help").out.split("Commands:")
    assert "..." not in listed
    assert len(listed.split()) > 20
    assert max(map(len, listed.splitlines())) <= columns


def every_command() -> list[list[str]]:
    """The words of each command, with those of `bench`."""
    top: Any = typer.main.get_command(app)
    return [
        [name, *deeper]
        for name, one in top.commands.items()
        for deeper in ([[sub] for sub in getattr(one, "commands", ())] or [[]])
    ]


@pytest.mark.parametrize("columns", [60, 80])
def test_every_help_is_within_the_width_and_cuts_no_word(
    run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """A narrow help has the words of a wide one, which may be divided behind a hyphen or a comma."""

    def parts(text: str) -> set[str]:
        return set(re.findall(r"[^\s,-]+|[,-]+", text))

    assert len(every_command()) > 15
    for command in every_command():
        monkeypatch.setenv("COLUMNS", "200")
        words = parts(run(*command, "--help").out)
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = run(*command, "--help").out
        assert max(map(len, shown.splitlines())) <= columns, command
        assert words == parts(shown), command


LONG = "holitom[similarity_threshold=0.75,contextual_ratio=0.25]"


@pytest.mark.parametrize("columns", [60, 80])
def test_every_table_is_within_the_width(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO_VIDEO, "demo.mp4")
    asked = {"video": "demo.mp4", "question": "Which shape flashes?", "answer": "ring"}
    Path("asked.jsonl").write_text(f"{json.dumps(asked)}\n{json.dumps(asked | {'question': 'Why?'})}\n")
    small = ["--model", checkpoint, "--frames", 2, "--method", LONG]
    for command in (
        ["methods"],
        *([["models"]] if columns == 80 else []),  # the longest class beside its family takes 61
        ["flops", "--model", checkpoint, "--frames", 4, "--methods", f"full,{LONG},pdrop"],
        ["ask", "--compare", "--reuse", "--max-new-tokens", 2, *small],
        ["drift", *small],
        ["compare", "asked.jsonl", "--max-new-tokens", 2, *small],
    ):
        result = run(*command)
        assert result.code == 0, result.err
        table, _, below = result.out.rstrip().rpartition("\n\n")
        assert max(map(len, result.out.splitlines())) <= columns, command
        assert "\x1b" not in result.out
        assert table
        assert below, f"{command}: no line says what the columns mean"


def test_completion_of_the_shell(run) -> None:
    assert "--install-completion" in run("--help").out
    done = subprocess.run(
        [sys.executable, "-c", "from holitom.cli import app; app(prog_name='holitom')"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "_HOLITOM_COMPLETE": "complete_bash",
            "COMP_WORDS": "holitom ",
            "COMP_CWORD": "1",
        },
        check=False,
    )
    assert {"ask", "compare", "flops", "inspect", "methods", "models", "web"} <= set(done.stdout.split())


def test_methods_are_listed_with_a_line_each(run) -> None:
    result = run("methods")
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(METHODS) + 1]] == list(METHODS)
    assert max(map(len, lines)) <= 80
    row = {line.split()[0]: line.split()[-1] for line in lines[1 : len(METHODS) + 1]}
    assert (row["holitom"], row["fastv"], row["evs"]) == ("own", "own", "+inner")
    known = {entry["name"]: entry for entry in json.loads(run("methods", "--json").out)}
    assert known["dycoke"]["ratios"] == "[0.25, 1]"
    assert known["pdrop"]["class"] == "PyramidDrop"


def test_models_are_listed_with_their_classes(run) -> None:
    from holitom.models import FAMILIES

    result = run("models")
    assert max(map(len, result.out.splitlines())) <= 80
    for name in FAMILIES:
        assert name in result.out
    served = {entry["class"]: entry["vllm"] for entry in json.loads(run("models", "--json").out)}
    assert served["Qwen2_5_VLForConditionalGeneration"]
    assert not served["SmolVLMForConditionalGeneration"]


def test_a_pipe_gets_plain_text() -> None:
    result = shell("methods")
    assert "\x1b" not in result.out + result.err


def test_a_terminal_without_colour_gets_none() -> None:
    """`NO_COLOR` is respected; heads may be bold."""
    import pty

    master, slave = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "holitom", "methods"],
            stdout=slave,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "NO_COLOR": "1", "TERM": "xterm-256color"},
            check=True,
        )
        shown = os.read(master, 100_000).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert "holitom-plus" in shown
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", shown) for code in found.split(";")}
    assert codes <= {"", "0", "1", "2", "22"}


def test_version(run) -> None:
    result = run("--version")
    assert result.code == 0
    assert result.out == f"holitom {holitom.__version__}\n"


def test_help_is_light() -> None:
    code = (
        "import sys; from holitom.cli import main; main(['ask', '--help']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.mp4", "What?"), "nowhere.mp4: no such file"),
        ((".", "What?"), "a directory"),
        ((DEMO_VIDEO,), "a question is needed"),
        ((DEMO_VIDEO, "  "), "the question is empty"),
        (("--retain", "0"), "retain_ratio must be"),
        (("--retain", "2"), "retain_ratio must be"),
        (("--retain", "a lot"), "Invalid value for '--retain'"),
        (("--retain", "nan"), "retain_ratio must be"),
        (("--threshold", "-7"), "similarity_threshold must be"),
        (("--frames", "0"), "frames must be at least 1, not 0"),
        (("--frames-by", "colour"), "frames_by must be time or change, not 'colour'"),
        (("--max-new-tokens", "0"), "max-new-tokens must be at least 1"),
        (("--method", "dycoke", "--retain", "0.1"), "retain_ratio must be in [0.25, 1], got 0.1"),
        (("--method", "evs", "--threshold", "0.5"), "evs has no setting 'similarity_threshold'"),
        (("--method", "magic"), "unknown method 'magic'; known: holitom, holitom-outer, holitom-plus"),
        (("--model", "./nowhere"), "model ./nowhere: no such folder"),
        (("--model", DEMO_VIDEO), "no such folder"),
        (("--dtype", "int8"), "dtype must be"),
        (("--device", "toaster"), "device 'toaster'"),
        (("--method", "full", "--compare"), "--method full there is none"),
        (("--method", "full", "--retain", "0.5"), "full keeps every token"),
        (("--method", "full", "--inner"), "full keeps every token"),
        (
            ("--method", "fastv", "--inner"),
            "FastV has inner stages of its own, so it takes none of HoliTom's",
        ),
        (("--method", "flashvid", "--inner"), "FlashVID has inner stages of its own"),
        (("--method", "flashvid+inner"), "FlashVID has inner stages of its own"),
        (("--method", "pdrop", "--no-inner"), "PyramidDrop works inside the language model alone"),
        (("--method", "fastv", "--no-inner"), "FastV works inside the language model alone"),
        (("--method", "evs[retain_ratio=0.2]", "--retain", "0.1"), "retain_ratio is set twice"),
        (("What happens?",), "'What happens?' is no file; if it is the question, name the video first"),
        (("What happens", DEMO_VIDEO), "the video comes first: holitom ask"),
        (("https://example.org/a.mp4", "What?"), "https://example.org/a.mp4 is a URL; download the video"),
        ((DEMO_VIDEO, b"What\xff?".decode(errors="surrogateescape")), "the question is not valid UTF-8"),
        (
            ("--model", "https://huggingface.co/org/name/tree/main"),
            "is a URL; give the hub id, owner/name, such as org/name",
        ),
        (("--model", "mistyped"), "model mistyped: no such folder, and no hub id"),
        (("--dtype", "float64"), "dtype must be auto, float32, bfloat16 or float16, not 'float64'"),
        (("--dtype", "nonsense"), "dtype must be auto, float32, bfloat16 or float16, not 'nonsense'"),
        (("--device", "cuda:x"), "device 'cuda:x'"),
        (("--device", "meta"), "device 'meta'"),
        (("--nonsense",), "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path: Path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("ask", *arguments)
    assert result.code == 2
    assert message in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "99999"), "port must be in 1..65535, not 99999"),
        (("--port", "0"), "port must be in 1..65535, not 0"),
        (("--port", "many"), "Invalid value for '--port'"),
        (("--host", "no such host"), "host 'no such host' is no address"),
        (("--host", "192.0.2.1"), "host '192.0.2.1' is no address of this machine"),
        (("--dtype", "float64"), "dtype must be auto, float32, bfloat16 or float16"),
        (("--device", "toaster"), "device 'toaster'"),
        (("--model", "mistyped"), "model mistyped: no such folder, and no hub id"),
        (("--max-minutes", "nan"), "must be above 0"),
    ],
)
def test_bad_input_to_web_is_reported_before_anything_is_loaded(
    run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("holitom.ask.load_model", lambda *_: pytest.fail("a model is loaded"))
    result = run("web", *arguments)
    assert result.code == 2
    assert message in result.error


def test_a_port_in_use(run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("web", "--port", port)
    assert result.code == 2
    assert result.error == f"port {port} at 127.0.0.1 is in use; choose another --port"


@pytest.mark.parametrize("command", ["ask", "inspect"])
@pytest.mark.parametrize("arguments", [("--method", "fastv", "--inner"), ("--dtype", "x"), ("--retain", "0")])
def test_bad_settings_are_reported_before_the_video_is_read(
    run, monkeypatch: pytest.MonkeyPatch, command: str, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("holitom.video.load_sampled", lambda *_: pytest.fail("the video is read"))
    assert run(command, *arguments).code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_where_there_is_none(run) -> None:
    result = run("ask", "--device", "cuda")
    assert result.code == 2
    assert result.error == "device 'cuda': PyTorch finds no CUDA device here; cpu or auto works"


def test_unknown_command(run) -> None:
    result = run("reply")
    assert result.code == 2
    assert "No such command" in result.error


def test_a_file_that_is_no_video(run, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 50)
    result = run("ask", tmp_path / "text.mp4", "What?")
    assert result.code == 2
    assert result.error.startswith("text.mp4: no readable video")


def test_an_adapter_without_its_model(run, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    result = run("ask", "--model", tmp_path)
    assert result.code == 2
    assert "a LoRA adapter alone; merge it into its base model" in result.error


def test_an_empty_model_folder(run, tmp_path: Path) -> None:
    result = run("ask", "--model", tmp_path)
    assert result.code == 2
    assert result.error.startswith(f"model {tmp_path}: ")


def test_a_model_class_without_adapter(run, tmp_path: Path) -> None:
    config = {"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run("ask", "--model", tmp_path)
    assert result.code == 2
    assert "Blip2ForConditionalGeneration; the nearest that has one is SmolVLM" in result.error
    assert "`holitom models` lists all" in result.error


@pytest.mark.parametrize("command", ["ask", "flops"])
def test_a_model_that_reads_text_only(run, tmp_path: Path, command: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    result = run(command, "--model", tmp_path)
    assert result.code == 2
    assert (
        "type 'gpt2', which sees no videos; give a video language model's: `holitom models`" in result.error
    )


@pytest.mark.parametrize("command", ["ask", "flops"])
def test_a_checkpoint_that_brings_its_own_code(run, tmp_path: Path, command: str) -> None:
    config = {
        "model_type": "minicpmv",
        "architectures": ["MiniCPMV"],
        "auto_map": {"AutoModel": "m.MiniCPMV"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run(command, "--model", tmp_path)
    assert result.code == 2
    assert "MiniCPMV runs code that came with its checkpoint; load one in the transformers" in result.error


def test_of_a_model_that_speaks_the_thinker_answers(run, tmp_path: Path) -> None:
    """A whole Qwen-Omni checkpoint, as it is published; what it says is that of its thinker alone."""
    from support.families import small
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    one = small("qwen2.5-omni")
    whole = Qwen2_5OmniForConditionalGeneration(
        Qwen2_5OmniConfig(thinker_config=one.model.config.to_dict(), enable_audio_output=False)
    )
    whole.thinker.load_state_dict(one.model.state_dict())
    whole.save_pretrained(tmp_path)
    one.processor.chat_template = (
        "{% for message in messages %}{% for part in message.content %}{% if part.type == 'video' %}"
        "<|vision_start|> <|video_pad|> <|vision_end|>{% else %} {{ part.text }} {% endif %}"
        "{% endfor %}{% endfor %}"
    )
    try:
        one.processor.save_pretrained(tmp_path)
    finally:
        one.processor.chat_template = None
    result = run(
        "ask", DEMO_VIDEO, "w1 w2", "--model", tmp_path, "--frames", 4, "--max-new-tokens", 4, "--json"
    )
    assert result.code == 0, result.err
    answered = json.loads(result.out)["runs"]["holitom"]
    assert answered["new_tokens"] == 4
    assert 0 < answered["visual_tokens"] < answered["visual_tokens_before"]


def test_a_checkpoint_without_chat_template(run, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "mute")
    (folder / "chat_template.jinja").unlink()
    result = run("ask", "--model", folder)
    assert result.code == 2
    assert "no chat template" in result.error


def test_a_damaged_checkpoint(run, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "half")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = run("ask", "--model", folder)
    assert result.code == 2
    assert result.error.startswith(f"model {folder}: ")


def test_missing_weights(run, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "gaps")
    weights = load_file(folder / "model.safetensors")
    last = sorted(weights)[-1]
    save_file({name: weights[name] for name in weights if name != last}, folder / "model.safetensors")
    result = run("ask", "--model", folder)
    assert result.code == 2
    assert "1 of its weights are missing, such as " in result.error


def test_errors_in_a_real_shell(tmp_path: Path) -> None:
    result = shell("ask", "nowhere.mp4", "What?", "--json", cwd=tmp_path)
    assert result.code == 2
    assert result.error == "nowhere.mp4: no such file"


# --- what costs are counted -------------------------------------------------------------------------


def test_flops_table_names_every_row_and_its_shapes(run) -> None:
    result = run("flops", "--retain", "0.1,0.2")
    assert result.code == 0
    assert "32 frames x 196 visual tokens" in result.out
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert any(line.startswith("full tokens 6,272 40.8 100.0%") for line in lines)
    assert any(line.startswith("HoliTom 10% 640, 320 @18 2.8 6.9%") for line in lines)
    pdrop = "PyramidDrop 6,272, 3,136 @7, 1,568 @14, 784 @21 18.0 "
    at = next(index for index, line in enumerate(lines) if line.startswith(pdrop))
    assert lines[at + 1] == "[retain_ratio=0.46875]"
    # Vision 21.3 and prefill 98.2 TFLOPs: their sum bounds the time to first token.
    assert any(line.startswith("full tokens 21.3 98.2 100.0% 119.6 100.0% ") for line in lines)
    assert max(map(len, result.out.splitlines())) <= 80


def test_flops_of_every_method(run, checkpoint: Path) -> None:
    result = run("flops", "--model", checkpoint, "--frames", 16, "--retain", "0.1", "--method", "all")
    assert result.code == 0
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert any(line.startswith("EVS 10% 78 ") for line in lines)
    assert any(line.startswith("VisionZip 10% 78 ") for line in lines)
    assert any(line.startswith("Not counted: PruneVid 10%: how many tokens PruneVid keeps") for line in lines)


def test_flops_json_of_a_checkpoint(run, checkpoint: Path) -> None:
    result = run(
        "flops", "--model", checkpoint, "--frames", 16, "--retain", "0.1", "--method", "fastv", "--json"
    )
    assert result.code == 0
    record = json.loads(result.out)
    assert (record["frames"], record["tokens_per_frame"], record["kv_dtype"]) == (16, 49, "bfloat16")
    full, fastv = record["rows"]
    assert full["prefill_operations"] > fastv["prefill_operations"]
    assert fastv["visual_tokens"] == [{"start": 0, "tokens": 784}, {"start": 2, "tokens": 78}]
    assert fastv["kv_bytes"] == sum(group["bytes"] for group in fastv["kv_groups"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--frames", "0"), "frames must be in 1..8192, got 0"),
        (("--retain", "0.1,2"), "retain_ratio must be a number in (0, 1], got 2.0"),
        (("--retain", "0.1,some"), "retain must be numbers"),
        (("--method", "magic"), "unknown method 'magic'; known: holitom, holitom-outer, holitom-plus"),
        (("--model", "no-such-model"), "model no-such-model: no such folder or config; published shapes: "),
        (("--model", "."), "model .: "),
        (("--text-tokens", "0"), "text_tokens must be in 1..1000000, got 0"),
        (("--size", "640"), "size must be a width and a height such as 640x360, not '640'"),
    ],
)
def test_bad_input_to_flops(run, tmp_path: Path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("flops", *arguments)
    assert result.code == 2
    assert message in result.error
