"""What holds of the package as a whole."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import holitom
from holitom.bundled import BUNDLED_MODELS
from holitom.errors import HolitomError

ROOT = Path(__file__).parents[1]
PACKAGE = Path(holitom.__file__).parent


def output_of(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    names = output_of(f"{statement}\nimport sys; print(' '.join(sys.modules))").split()
    return {name.partition(".")[0] for name in names}


def readme_example() -> str:
    """README's lines that load a model and ask it about a video: its second block of Python."""
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    return blocks[1].split("```")[0]


def test_importing_holitom_is_light() -> None:
    heavy = {"transformers", "torchvision", "av", "typer", "rich", "matplotlib", "gradio"}
    assert imported_by("import holitom").isdisjoint({*heavy, "torch", "numpy"})
    assert imported_by("from holitom import HoliTom, MergedTokens, Method, VideoTokens").isdisjoint(heavy)
    assert imported_by("from holitom import SettingsError, get_method").isdisjoint({*heavy, "torch"})
    assert imported_by("from holitom import load_video").isdisjoint({"torch", "torchvision"})


# Everything that README and the pages under docs/ tell a user to import from the package itself.
PUBLIC = [
    *("HoliTom", "Method", "get_method", "attach", "Handle", "Run", "Report", "VideoReport"),
    *("VideoTokens", "MergedTokens", "Video", "load_video", "prompt"),
]


def test_every_public_name_is_what_it_says() -> None:
    """By value: a name that leads nowhere, or to another thing of that name (a module), fails."""
    code = (
        "import holitom as h\nfor name in h.__all__: print(name, getattr(getattr(h, name), '__name__', ''))"
    )
    told = dict(line.split(" ", 1) for line in output_of(code).splitlines())
    assert told.pop("__version__") == ""
    assert told == {name: name for name in told}


def test_everything_a_user_needs_is_public() -> None:
    classes = [getattr(holitom.errors, name) for name in dir(holitom.errors)]
    raised = {one.__name__ for one in classes if isinstance(one, type) and issubclass(one, HolitomError)}
    assert {*PUBLIC, *raised} <= set(holitom.__all__)
    assert set(holitom.__all__) <= set(dir(holitom))


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'holitom' has no attribute 'HoliTon'"):
        holitom.HoliTon  # noqa: B018


def test_readmes_lines_pass_a_users_type_check(tmp_path: Path) -> None:
    """Under `--strict`, with what they give: a report's figures are numbers, not `Any`."""
    pytest.importorskip("mypy")
    checks = """
from typing_extensions import assert_type
from holitom import Handle, MergedTokens, Report, Run, Video, VideoReport, VideoTokens, attach, get_method

assert_type(video, Video)
assert_type(run, Run)
assert_type(run.last, Report | None)
if run.last is not None:
    assert_type(run.last.videos, list[VideoReport])
    assert_type(run.last.kv_bytes, int)
    assert_type(run.last.seconds, dict[str, float])
handle = attach(get_method("evs", retain_ratio=0.5), model)
assert_type(handle, Handle)
handle.detach()

def outer(tokens: VideoTokens) -> MergedTokens:
    return HoliTom(retain_ratio=0.25, similarity_threshold=0.8).merge(tokens)
"""
    script = tmp_path / "script.py"
    script.write_text(readme_example() + checks)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    # transformers decorates `PreTrainedModel.to` such that its types refuse every argument.
    said = [line for line in done.stdout.splitlines() if ": error: " in line and '"_Wrapped"' not in line]
    assert done.returncode in (0, 1), done.stderr
    assert said == []


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_the_demo_video_is_what_its_tool_renders() -> None:
    pytest.importorskip("sklearn")
    from render_demo import enlarged

    from holitom.bench import moving_digits
    from holitom.video import load_video

    frames = load_video(PACKAGE / "assets" / "demo.mp4", frames=16).frames
    made = enlarged(moving_digits.sample("test", 35, frames=16).frames, 4)
    assert abs(frames.astype(int) - made).mean() < 3


def test_the_readme_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tiny_llava

    tiny_llava.save(tiny_llava.build(seed=0), tmp_path)
    example = readme_example()
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
    """Each bundled model within its 16 MB, and all else within one."""
    sizes = dict.fromkeys(["the rest", *BUNDLED_MODELS], 0)
    for file in (PACKAGE / "assets").rglob("*"):
        if file.is_file():
            owner = file.parent.name
            sizes[owner if owner in BUNDLED_MODELS else "the rest"] += file.stat().st_size
    assert sizes.pop("the rest") < 2**20
    assert all(0 < size < 16e6 for size in sizes.values())


def test_every_file_says_what_it_is() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert file.read_text().lstrip().startswith('"""'), file


def test_every_error_comes_from_the_package() -> None:
    from holitom import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    for kind in kinds:
        assert getattr(holitom, kind.__name__) is kind
        assert kind.__name__ in holitom.__all__


def test_no_message_names_a_page_that_an_installed_package_lacks() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            leaves = ast.walk(node) if isinstance(node, (ast.Raise, ast.Return)) else ()
            texts = [leaf.value for leaf in leaves if isinstance(leaf, ast.Constant)]
            assert not [text for text in texts if isinstance(text, str) and "docs/" in text], path
