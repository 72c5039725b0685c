"""docs/limits.md has one table of what is refused: the very sentences that the errors say."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from holitom import UnsupportedUsageError
from holitom.runtime import refusals
from holitom.runtime.refusals import REFUSALS, Refusal

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "src" / "holitom" / "runtime"


def rows() -> list[tuple[str, ...]]:
    """The table's cells, without its head."""
    lines = (ROOT / "docs" / "limits.md").read_text().splitlines()
    start = lines.index("| what is refused | why | what works |")
    cells = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells.append(tuple(cell.strip() for cell in line.strip("|").split(" | ")))
    return cells


def test_the_table_says_what_the_errors_say() -> None:
    assert rows() == [(each.what, each.why, each.instead) for each in REFUSALS]


def test_every_refusal_is_in_the_table_once() -> None:
    defined = [value for value in vars(refusals).values() if isinstance(value, Refusal)]
    assert sorted(map(id, defined)) == sorted(map(id, REFUSALS))
    assert len({each.what for each in REFUSALS}) == len(REFUSALS)


def test_every_refusal_is_raised_somewhere() -> None:
    names = {name for name, value in vars(refusals).items() if isinstance(value, Refusal)}
    sources = "\n".join(file.read_text() for file in RUNTIME.glob("*.py"))
    assert names == set(re.findall(r"raise (?:refusals\.)?([A-Z]+(?:_[A-Z]+)*)\.error\(", sources))


def test_an_error_is_one_line_that_says_what_why_and_what_works() -> None:
    for each in REFUSALS:
        error = each.error("this one")
        assert isinstance(error, UnsupportedUsageError)
        assert "\n" not in str(error)
        assert all(part in str(error) for part in (each.what, each.why, each.instead, "this one"))


def test_what_is_refused_is_refused_here_alone() -> None:
    """Beside the table, errors of the runtime are about input that does not fit itself, or faulty methods."""
    # Placeholders that are not whole videos, a `merge` without streams; encoding in parts, by a live handle.
    others = {"assignment.py", "encoded.py", "tower.py", "attach.py"}
    for file in RUNTIME.glob("*.py"):
        raised = re.findall(r"raise UnsupportedUsageError\(", file.read_text())
        assert not raised or file.name in others, file.name
    assert "raise UnsupportedUsageError" not in inspect.getsource(refusals)
