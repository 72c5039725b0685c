"""What the plugins need of vLLM and lmms-eval is written down, read from sources, and complete."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holitom import UnsupportedUsageError
from holitom.errors import InterfaceError
from holitom.integrations import lmms_eval, vllm
from holitom.integrations.interfaces import Sources, broken, entries, installed
from holitom.integrations.lmms_eval import contract as lmms_contract
from holitom.integrations.vllm import contract as vllm_contract

FILES = {
    "__init__.py": "from .shapes import *\nfrom .shapes import Square as Box\n",
    "shapes.py": """
from dataclasses import dataclass
from typing import Generic, TypeVar
from .base import Base

T = TypeVar("T")
SIDES, CORNERS = 4, 4
try:
    import fast
except ImportError:
    fast = None

@dataclass
class Point:
    x: int
    y: int = 0

@dataclass
class Tagged(Point):
    tag: str = ""

class Square(Base, Generic[T]):
    colour = "red"
    def __init__(self, side, *, tag=None, **more):
        super().__init__(tag)
        self.side: int = side
        self.first, self.last = 0, 1
    def area(self, scale, *, unit, digits=2): ...
    @property
    def wide(self): return True
    def both(self): return self.area(1, unit="m")

def shape(kind, /, size=1): ...
""",
    "base.py": """
class Base:
    tag: str
    def name(self, upper): ...
    def called(self): self._hook()
""",
}


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    root = tmp_path / "shop"
    root.mkdir()
    for name, text in FILES.items():
        (root / name).write_text(text)
    return Sources(root)


@pytest.mark.parametrize(
    ("module", "entry"),
    [
        ("shop", "Box(side, tag)"),
        ("shop", "shape(kind, size)"),
        ("shop", "Point(x)"),
        ("shop.shapes", "SIDES"),
        ("shop.shapes", "CORNERS"),
        ("shop.shapes", "fast"),
        ("shop.shapes", "Tagged(x, tag)"),
        ("shop.shapes", "Square(side, anything)"),
        ("shop.shapes", "Square.side"),
        ("shop.shapes", "Square.last"),
        ("shop.shapes", "Square.colour"),
        ("shop.shapes", "Square.wide"),
        ("shop.shapes", "Square.tag  # of a base class in another file"),
        ("shop.shapes", "Square.name(upper)"),
        ("shop.shapes", "Square.area(scale, unit)"),
        ("shop.shapes", "calls area"),
        ("shop.base", "calls _hook"),
    ],
)
def test_what_is_there_is_found(sources: Sources, module: str, entry: str) -> None:
    assert broken(sources, f"{module}\n    {entry}\n") == []


@pytest.mark.parametrize(
    ("module", "entry", "says"),
    [
        ("shop.shop", "Box", "there is no module shop.shop"),
        ("store", "Box", "there is no module store"),
        ("shop", "Circle", "shop has no Circle"),
        ("shop.shapes", "Square.height", "shop.shapes has no Square.height"),
        ("shop.shapes", "Square.name(lower)", "shop.shapes.Square.name takes no lower, but upper"),
        ("shop.shapes", "Square.area(scale)", "shop.shapes.Square.area needs unit as well"),
        ("shop.shapes", "Point(y, x)", "shop.shapes.Point takes its arguments in another order: x, y"),
        ("shop.shapes", "SIDES()", "shop.shapes.SIDES is no function or class any more"),
        ("shop.shapes", "calls _hook", "shop.shapes does not call _hook any more"),
    ],
)
def test_what_has_moved_is_a_sentence(sources: Sources, module: str, entry: str, says: str) -> None:
    assert broken(sources, f"{module}\n    {entry}\n") == [says]


def test_a_package_that_is_not_installed_has_no_sources() -> None:
    assert installed("no_such_package") is None
    found = installed("holitom")
    assert found is not None
    assert (
        broken(found, "holitom.integrations.interfaces\n    Sources(root)\n    Sources.find(module, name)")
        == []
    )


def used_of(package: str, folder: Path) -> dict[str, set[str]]:
    """The names that the files of `folder` use of `package`, by module, `module as stock` too."""
    used: dict[str, set[str]] = {}
    for file in folder.glob("*.py"):
        tree = ast.parse(file.read_text())
        modules: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
                for alias in node.names:
                    if alias.asname:
                        modules[alias.asname] = f"{node.module}.{alias.name}"
                    else:
                        used.setdefault(str(node.module), set()).add(alias.name)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                used.setdefault(modules[node.value.id], set()).add(node.attr)
    return used


@pytest.mark.parametrize(
    ("package", "plugin", "contract"),
    [("vllm", vllm, vllm_contract.CONTRACT), ("lmms_eval", lmms_eval, lmms_contract.CONTRACT)],
)
def test_a_contract_lists_every_name_that_the_plugin_imports(
    package: str, plugin: Any, contract: str
) -> None:
    listed = entries(contract)
    used = used_of(package, Path(plugin.__file__).parent)
    assert used
    for module, names in used.items():
        assert names <= listed.get(module, set()), f"{module}: {names - listed.get(module, set())} not listed"


def test_a_contract_lists_every_method_that_the_plugin_hands_on_to_vllm() -> None:
    """`super().method(...)`: a method that vLLM renames would not be called any more, without an error."""
    handed_on = set()
    for file in Path(vllm.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
                called = node.value.func
                if isinstance(called, ast.Name) and called.id == "super" and node.attr != "__init__":
                    handed_on.add(node.attr)
    assert {"get_num_video_tokens", "_process_video_input", "get_mrope_input_positions"} <= handed_on
    for name in handed_on - {"_pooled"}:  # the plugin's own
        assert f".{name}(" in vllm_contract.CONTRACT, f"{name} is not listed"


def unpacked(package: str) -> list[Any]:
    """Folders of unpacked wheels, from HOLITOM_SOURCES=folder:folder: what a new release is read with."""
    folders = [Path(place) / package for place in os.environ.get("HOLITOM_SOURCES", "").split(":") if place]
    return [pytest.param(folder, id=folder.parent.name) for folder in folders if folder.is_dir()]


@pytest.mark.parametrize(
    ("contract", "folder"),
    [
        *((vllm_contract.CONTRACT, *one.values) for one in unpacked("vllm")),
        *((lmms_contract.CONTRACT, *one.values) for one in unpacked("lmms_eval")),
    ],
)
def test_unpacked_releases_hold_the_contract(contract: str, folder: Path) -> None:
    assert broken(Sources(folder), contract) == []


@pytest.mark.vllm
def test_the_installed_vllm_holds_the_contract() -> None:
    vllm_contract.check_interfaces()


@pytest.mark.lmms_eval
def test_the_installed_lmms_eval_holds_the_contract() -> None:
    assert installed("lmms_eval") is not None
    lmms_contract.check()


def test_an_untested_lmms_eval_is_named_with_what_would_work() -> None:
    with pytest.raises(UnsupportedUsageError, match=r"lmms-eval 0\.9\.0.*0\.7\.3.*make test-lmms-eval"):
        lmms_contract.check_version("0.9.0")
    lmms_contract.check_version("0.7.3")


def test_a_request_of_another_shape_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    request = SimpleNamespace(args=("text", len, {"until": []}, 3, "task", "test"))
    assert lmms_contract.arguments_of(request) == request.args
    monkeypatch.setattr("holitom.errors.version", lambda package: "9.9")
    for args in [request.args[:5], ("text", {"until": []}, len, 3, "task", "test")]:
        with pytest.raises(InterfaceError, match=r"a request holds \(str, .*lmms-eval 9\.9 is installed"):
            lmms_contract.arguments_of(SimpleNamespace(args=args))
