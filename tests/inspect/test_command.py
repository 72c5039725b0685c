"""`holitom inspect` as a script sees it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from holitom.bundled import DEMO_VIDEO
from holitom.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command in an empty folder: exit code, stdout, and what an error says."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        fast = ("--dtype", "float32")  # bfloat16 is slow on most processors
        code = main(["inspect", *fast, *map(str, arguments)])
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("holitom: error: ")]
        assert len(lines) == (code != 0), err
        assert "Traceback" not in err
        return code, out, lines[0].removeprefix("holitom: error: ") if lines else err

    return call


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert found
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def write_video(path: Path, size: tuple[int, int], frames: int, codec: str, pix_fmt: str) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=8)
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        for index in range(frames):
            image = np.full((size[1], size[0], 4), 40 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        container.mux(stream.encode())
    return path


def test_the_demo(run: Any, tmp_path: Path) -> None:
    code, out, err = run()
    assert (code, out) == (0, "demo.inspect.html\n")
    assert "Answer: ring" in err
    data = data_of(tmp_path / "demo.inspect.html")
    assert data["question"] == "Which shape flashes?"
    assert data["answer"] == "ring"
    assert data["frames"] == 16
    assert [stage[0] for stage in data["stages"]] == [
        "all visual tokens",
        "after merging in time",
        "after merging in space",
        "from layer 5 on",
    ]
    assert list(data["survivors"]) == ["5"]
    assert "has seen moving digits and shapes alone" in data["banner"]
    assert data["computed"] is None


def test_reuse_is_run_and_drawn(run: Any, tmp_path: Path) -> None:
    assert run("--reuse", "-o", "reuse.html")[0] == 0
    assert data_of(tmp_path / "reuse.html")["computed"]["share"] < 1


def test_methods_side_by_side(run: Any, tmp_path: Path) -> None:
    """Each with its answer, cost and tokens on the same frames; what one cannot do stands in its column."""
    code, out, err = run(
        DEMO_VIDEO,
        "Which shape flashes?",
        "--methods",
        "holitom,visionzip,uniform",
        "-o",
        "both.html",
        "--json",
    )
    assert code == 0
    assert "holitom: Answer: ring; 784 visual tokens become 86" in err
    figures = json.loads(out)["methods"]
    assert [figures[name]["sent"] for name in ("holitom", "visionzip", "uniform")] == [86, 78, 49]
    assert figures["holitom"]["answer"] == "ring"
    html = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert html.count('<section class="method"') == 3
    assert html.count("<img alt=") == 5 + 3 * 16  # the legend's, and every frame of each
    assert "has seen moving digits and shapes alone" in html
    assert "<script" not in html


def test_what_a_method_cannot_meet_stands_beside_the_others(run: Any, tmp_path: Path) -> None:
    """Uniform keeps whole frames: a fiftieth of four frames is none."""
    code, _, err = run(
        DEMO_VIDEO, "--methods", "uniform,evs,holitom", "--retain", 0.05, "--frames", 4, "-o", "o.png"
    )
    assert code == 0
    assert "holitom: 196 visual tokens become" in err
    assert re.search(r"uniform: .*retain_ratio", err)
    assert Image.open(tmp_path / "o.png").size[0] > 1000


@pytest.mark.parametrize("kind", [".html", ".PNG", ".svg", ".mp4"])
def test_every_kind_of_file(run: Any, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"some name{kind}"
    options = ("--frames", 4, "--retain", 0.3, "--method", "evs")
    assert run(DEMO_VIDEO, "-o", file, *options)[:2] == (0, f"{file}\n")
    if kind == ".html":
        assert data_of(file)["method"] == "EVS(retain_ratio=0.3)"
        assert data_of(file)["question"] is None
    elif kind == ".PNG":
        assert Image.open(file).size[0] > 1000
    elif kind == ".mp4":
        with av.open(str(file)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 4
    else:
        assert "<svg" in file.read_text()


@pytest.mark.parametrize(
    ("size", "frames", "codec", "pix_fmt"),
    [
        ((64, 160), 6, "libx264", "yuv420p"),
        ((64, 48), 1, "libx264", "yuv420p"),
        ((64, 48), 4, "qtrle", "argb"),
    ],
    ids=["portrait", "one frame", "alpha"],
)
def test_videos_as_people_have_them(
    run: Any, tmp_path: Path, size: tuple[int, int], frames: int, codec: str, pix_fmt: str
) -> None:
    video = write_video(tmp_path / "v.mov", size, frames, codec, pix_fmt)
    assert run(video, "-o", "o.html")[0] == 0
    data = data_of(tmp_path / "o.html")
    assert data["frames"] == frames
    assert data["aspect"] == pytest.approx(size[0] / size[1])
    assert run(video, "-o", "o.png")[0] == 0
    assert run(video, "-o", "o.mp4")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no.mp4"], "no such file"),
        (["empty.mp4"], "the file is empty"),
        (["text.mp4"], "no readable video"),
        (["text.mp4", ""], "the question is empty"),
        (["text.mp4", "why " * 25_000], r"the question has 100,000 characters; it may have 10,000 at most"),
        (["v.mp4", "-o", "o.jpg"], r"o\.jpg: output must end in \.html, \.png"),
        (["v.mp4", "-o", "o"], r"o: output must end in"),
        (["v.mp4", "-o", "none/o.html"], "none/o.html: cannot be written .No such file"),
        (["v.mp4", "-o", "text.mp4/o.html"], "cannot be written .Not a directory"),
        (["v.mp4", "-o", "folder.html"], "cannot be written .Is a directory"),
        (["v.mp4", "-o", "v.mp4"], "that is the video itself"),
        (["v.mp4", "--method", "magic"], "unknown method 'magic'"),
        (["v.mp4", "--retain", "2"], "retain_ratio must be a number in"),
        (["v.mp4", "--frames", "0"], "frames must be at least 1"),
        (["v.mp4", "--max-new-tokens", "0"], "max-new-tokens must be at least 1"),
        (["v.mp4", "--model", "./none"], "no such folder"),
        (["v.mp4", "--methods", "holitom"], "--methods takes two to four different methods, not 1"),
        (["v.mp4", "--methods", "all"], "--methods takes two to four different methods"),
        (["v.mp4", "--methods", "holitom,magic"], "unknown method 'magic'"),
        (
            ["v.mp4", "--methods", "holitom,evs", "--threshold", "0.5"],
            "goes without --method and --threshold",
        ),
        (["v.mp4", "--methods", "holitom,evs", "-o", "o.mp4"], "a clip shows one method"),
    ],
)
def test_bad_input_is_one_sentence(run: Any, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "folder.html").mkdir()
    shutil.copy(DEMO_VIDEO, tmp_path / "v.mp4")
    before = sorted(tmp_path.iterdir())
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert re.search(says, error), error
    assert len(error) < 300
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written is left
    assert (
        hashlib.sha256((tmp_path / "v.mp4").read_bytes()).digest()
        == hashlib.sha256(DEMO_VIDEO.read_bytes()).digest()
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", [".html", ".png", ".mp4"])
def test_a_full_disk(run: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"o{kind}").symlink_to("/dev/full")
    code, _, error = run(DEMO_VIDEO, "-o", f"o{kind}", "--frames", 2)
    assert code == 2
    assert "cannot be written (No space left on device)" in error


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; from holitom.cli import main; main(['inspect', '--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "page, a picture or a clip" in done.stdout
    assert done.stdout.endswith("False\n")


@pytest.mark.slow
def test_the_quickstart_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As committed, offline, and it shows the picture."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert printed.count("ring") == 3  # full, merged, and by hand
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert {file.name for file in tmp_path.glob("*.html")} == {
        f"{name}.html" for name in ("holitom", "prunevid", "visionzip", "evs")
    }
