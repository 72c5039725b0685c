"""The Python that pages show runs, on the bundled model, and prints what they say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from holitom.bundled import DEMO_VIDEO


def page(name: str) -> str:
    return (Path(__file__).parents[1] / "docs" / f"{name}.md").read_text()


def python(name: str) -> list[str]:
    """The blocks of Python on a page."""
    return re.findall(r"```python\n(.*?)```", page(name), flags=re.DOTALL)


@pytest.fixture(scope="module")
def first_run() -> dict[str, Any]:
    """The names that the lines of "Without a GPU and without a checkpoint" leave."""
    names: dict[str, Any] = {}
    exec(python("getting-started")[0], names)
    return names


def test_the_first_lines_run_and_print_what_the_page_of_the_report_shows(first_run: dict[str, Any]) -> None:
    shown = re.findall(r"```\n(video 0.*?)```", page("report"), flags=re.DOTALL)[0]
    printed = re.sub(r" \d+\.\d{3}", " #", f"{first_run['run'].last}\n")
    assert printed == re.sub(r" \d+\.\d{3}", " #", shown)


def test_the_figures_of_the_page_of_the_report_are_those_of_the_run(first_run: dict[str, Any]) -> None:
    lines = python("report")[1].splitlines()
    names = {"run": first_run["run"]}
    exec(lines[0], names)
    for line in lines[1:]:
        expression, _, value = line.partition("  # ")
        known = re.match(r"\(.*\)|\{.*\}|\[.*\]|\d+", value)
        assert known
        assert eval(expression, names) == eval(known[0]), line
    shown = re.findall(r"```json\n(.*?)```", page("report"), flags=re.DOTALL)[0]
    told = first_run["run"].last.to_dict()
    assert {**json.loads(shown), "seconds": None} == {**json.loads(json.dumps(told)), "seconds": None}


@pytest.mark.parametrize("name", ["getting-started", "settings", "report", "video", "tower", "inspect"])
def test_lines_of_a_page_run(
    name: str, first_run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO_VIDEO, "video.mp4")
    names = {**first_run, "frames": first_run["video"].frames}
    for block in python(name):
        exec(block.replace("max_new_tokens=64", "max_new_tokens=2"), names)
