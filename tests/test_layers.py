"""Who may import whom: what a file needs lies in its own layer or below, and no two files need each other.

Imports inside functions count, those for type checkers too, and the names of modules in tables
(`"holitom.methods.evs:EVS"`).
"""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import holitom

PACKAGE = Path(holitom.__file__).parent

# Lowest first. A file or package may import those of its own row and of the rows before it.
LAYERS = [
    {"version", "tokens", "errors", "cores", "ops", "bundled", "hub", "lazy", "wrapping"},
    {"contract", "video"},
    {"models"},
    {"tower"},
    {"runtime"},
    {"methods"},
    {"ask", "costs", "flow", "prompts"},
    {"inspect", "bench"},
    {"web", "integrations"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def module_name(file: Path) -> str:
    parts = ["holitom", *file.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def imports(source: str, named: bool = True) -> set[str]:
    """The modules of holitom that `source` imports, wherever in it; with `named`, those in its tables too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide who needs whom"
            base = str(node.module)
            names = {alias.name for alias in node.names}
            inside = {f"{base}.{name}" for name in names if f"{base}.{name}" in MODULES}
            found |= inside
            if len(inside) < len(names):
                found.add(base)
        elif named and isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.fullmatch(r"(holitom(?:\.\w+)+)(?::\w+)?", node.value)
            if match:
                found.add(match[1])
    return {name for name in found if name.split(".")[0] == "holitom"}


def layer_of(module: str) -> str:
    """The entry of `LAYERS` that `module` belongs to."""
    _, _, inner = module.partition(".")
    return inner.split(".")[0] or "__init__"


def upward(module: str, source: str) -> set[tuple[str, str]]:
    """The imports of `module` that its layer does not allow."""
    own = RANK[layer_of(module)]
    return {(module, other) for other in imports(source) if RANK[layer_of(other)] > own}


def test_every_file_is_in_a_layer() -> None:
    assert {layer_of(module) for module in MODULES} == set(RANK)


def test_no_import_runs_up() -> None:
    found = set().union(*(upward(module, file.read_text()) for module, file in MODULES.items()))
    assert found == set()


def test_no_two_files_need_each_other() -> None:
    graph = {module: imports(file.read_text(), named=False) for module, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def long_definitions(source: str, lines: int, kind: type[ast.AST]) -> dict[str, int]:
    """Functions or classes of `source` with more than so many `lines`, docstrings included."""
    long = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kind) and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            count = int(node.end_lineno or 0) - node.lineno + 1
            if count > lines:
                long[node.name] = count
    return long


@pytest.mark.parametrize(("kind", "lines"), [(ast.FunctionDef, 50), (ast.ClassDef, 200)])
def test_the_runtime_reads_in_pieces(kind: type[ast.AST], lines: int) -> None:
    for file in sorted((PACKAGE / "runtime").glob("*.py")):
        assert long_definitions(file.read_text(), lines, kind) == {}, file.name
    assert long_definitions("def f():\n" + " pass\n" * 3, 3, ast.FunctionDef) == {"f": 4}


@pytest.mark.parametrize(
    "line",
    [
        "import holitom.runtime",
        "from holitom.runtime import Report",
        "from holitom import runtime",
        "def late():\n    from holitom.runtime.report import Report",
        "if TYPE_CHECKING:\n    from holitom.runtime.report import Report",
        "HOME = {'Report': 'holitom.runtime.report:Report'}",
    ],
)
def test_an_import_that_runs_up_is_seen(line: str) -> None:
    assert upward("holitom.models.base", line)
    assert not upward("holitom.methods.base", line)
