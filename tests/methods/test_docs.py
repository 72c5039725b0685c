"""The example of docs/adding-a-method.md runs, and docs/methods.md names every default."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from support.videos import clip

from holitom.errors import SettingsError
from holitom.methods import METHODS, HoliTom, Method, get_method, method_class
from holitom.methods.registry import Row

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's file and row, in place; its test."""
    file, row, test = re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-method.md").read_text(), re.DOTALL)
    module: Any = types.ModuleType("holitom.methods.loudest")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file, "loudest.py", "exec"), module.__dict__)
    for name, line in eval("{" + row + "}", {"Row": Row}).items():
        monkeypatch.setitem(METHODS, name, line)
        assert len(line.does) <= 46
    return str(test)


def test_the_example_of_a_method_runs(example: str) -> None:
    exec(example, {})


def test_the_example_of_a_method_is_a_method_like_others(example: str) -> None:
    chosen = get_method("loudest", retain_ratio=0.3)
    for dtype in (torch.float16, torch.float64):
        video = clip(5, 8)
        merged = chosen.merge(type(video)(video.features.to(dtype), video.importance, video.grid))
        assert len(merged.features) == chosen.merged_count(5, 8) == 12
        assert merged.features.dtype == dtype
        assert int(merged.size.sum()) == 40
    assert chosen.with_inner(HoliTom()).inner(28) == HoliTom().inner(28)
    with pytest.raises(SettingsError, match="order must be a number from 1 up, got 0"):
        get_method("loudest", order=0)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_methods_names_every_default(name: str) -> None:
    sections = re.split(r"^### ", (DOCS / "methods.md").read_text(), flags=re.MULTILINE)
    (section,) = [section for section in sections if section.startswith(f"`{name}`")]
    stated = re.search(r"Defaults: (.*?)\.\n", section, re.DOTALL)
    found = dict(re.findall(r"`(\w+)`\s+(\([^`]*?\)|[^\s,]+)", stated[1])) if stated else {}
    shared = {f.name for f in fields(Method)}
    own = [f for f in fields(method_class(name)) if f.init and f.name not in shared]
    assert found == {f.name: repr(f.default).replace("'", '"') for f in own}
    assert "arXiv" in section or "Ours" in section
    assert re.search(r"Reads\s", section)
