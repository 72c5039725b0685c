"""Which family supports what, from what the test matrix really ran.

python tools/support_table.py run    # runs tests/families, writes docs/results/support.json
python tools/support_table.py        # writes the table of the latest run into the README, and prints it
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "results" / "support.json"
README = ROOT / "README.md"
MARKS = "<!-- python tools/support_table.py -->", "<!-- end -->"

# What a test says that it shows, by the marker `shows`.
COLUMNS = ("outer", "inner", "batches", "images")


class Recorder:
    """A pytest plugin: the outcome of every test of the matrix, by family and column."""

    def __init__(self) -> None:
        self.families: dict[str, str] = {}
        self.columns: dict[str, list[str]] = {}
        self.outcomes: dict[str, list[tuple[str, str]]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            params = getattr(getattr(item, "callspec", None), "params", {})
            self.families[item.nodeid] = params.get("name", "")
            self.columns[item.nodeid] = [marker.args[0] for marker in item.iter_markers("shows")]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            reason = report.longrepr[2].removeprefix("Skipped: ") if report.skipped else ""
            self.outcomes.setdefault(report.nodeid, []).append((report.outcome, reason))

    def table(self) -> dict[str, dict[str, Any]]:
        """For each family and column how many tests passed, failed, and why some were skipped."""
        found: dict[str, dict[str, Any]] = {}
        for node, outcomes in self.outcomes.items():
            row = found.setdefault(self.families.get(node, ""), {})
            for column in self.columns[node]:
                cell = row.setdefault(column, {"passed": 0, "failed": 0, "skipped": []})
                for outcome, reason in outcomes:
                    if outcome == "skipped":
                        cell["skipped"] = sorted({*cell["skipped"], reason})
                    else:
                        cell[outcome] += 1
        found.pop("", None)
        return found


def run() -> None:
    """Run the matrix and write what it found."""
    import pytest
    import torch
    import transformers

    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    recorder = Recorder()
    # More of the same in slow combinations would show nothing that these columns tell.
    wanted = ["-q", "-p", "no:cacheprovider", "-k", "not every_kind and not every_cell", "tests/families"]
    if pytest.main(["--rootdir", str(ROOT), *wanted], plugins=[recorder]) > 1:
        raise SystemExit("the matrix did not run to its end")
    modules = import_module("support.families").FAMILIES
    small = import_module("support.families").small
    cells = recorder.table()
    families = {
        name: {
            "class": type(small(name).model).__name__,
            **cells[name],
        }
        for name in modules
        if name in cells
    }
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"versions": versions, "families": families}, indent=1) + "\n")


def table() -> str:
    """The table of the latest run, in Markdown, with what was skipped below it."""
    record = json.loads(RECORD.read_text())
    sys.path.insert(0, str(ROOT / "src"))
    served = import_module("holitom.integrations.vllm").FAMILIES
    notes: list[str] = []

    def cell(outcome: dict[str, Any] | None) -> str:
        if outcome is None or not outcome["passed"] + outcome["failed"] + len(outcome["skipped"]):
            return "not run"
        for reason in outcome["skipped"]:
            if reason not in notes:
                notes.append(reason)
        marks = "".join(f" ({notes.index(reason) + 1})" for reason in outcome["skipped"])
        if outcome["failed"]:
            return "no"
        return ("yes" if outcome["passed"] else "-") + marks

    lines = ["| family | class | " + " | ".join([*COLUMNS, "vLLM"]) + " |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name, row in record["families"].items():
        cells = [cell(row.get(column)) for column in COLUMNS]
        cells.append("outer" if row["class"] in served else "-")
        lines.append(f"| {name} | `{row['class']}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"({number}) {note}" for number, note in enumerate(notes, start=1))])


def write(text: str) -> None:
    """Put the table between its marks in the README."""
    readme = README.read_text()
    begin = readme.index(MARKS[0]) + len(MARKS[0])
    README.write_text(readme[:begin] + f"\n{text}\n" + readme[readme.index(MARKS[1], begin) :])


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        run()
    write(table())
    print(table())
