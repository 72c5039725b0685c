"""What holds of the package as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import holitom

ROOT = Path(__file__).parents[1]
PACKAGE = Path(holitom.__file__).parent


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_holitom_is_light() -> None:
    assert imported_by("from holitom import HoliTom").isdisjoint(
        {"transformers", "torchvision", "av", "typer", "rich"}
    )


def test_the_public_names() -> None:
    assert set(holitom.__all__) <= set(dir(holitom))
    assert "HoliTom" in holitom.__all__


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_the_demo_video_is_what_its_tool_renders() -> None:
    pytest.importorskip("sklearn")
    from holitom.bench import moving_digits
    from holitom.video import load_video

    frames = load_video(PACKAGE / "assets" / "demo.mp4", frames=16).frames
    made = moving_digits.sample("test", 35, frames=16, scale=4).frames
    assert abs(frames.astype(int) - made).mean() < 3


def test_the_readme_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tiny_llava

    tiny_llava.save(tiny_llava.build(seed=0), tmp_path)
    _, example = (
        block.split("```")[0] for block in (ROOT / "README.md").read_text().split("```python\n")[1:3]
    )
    for shown, real in {
        '"llava-hf/llava-onevision-qwen2-7b-ov-hf"': repr(str(tmp_path)),
        '"video.mp4"': repr(str(PACKAGE / "assets" / "demo.mp4")),
        '"cuda"': '"cpu"',
    }.items():
        assert shown in example
        example = example.replace(shown, real)
    exec(example, {})
    assert "1568" in capsys.readouterr().out


def test_assets_stay_small() -> None:
    assert sum(file.stat().st_size for file in (PACKAGE / "assets").rglob("*") if file.is_file()) < 17 * 2**20


def test_every_file_says_what_it_is() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert file.read_text().lstrip().startswith('"""'), file
