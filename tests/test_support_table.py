"""The README's support table is what the matrix's latest run says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import support_table
from support.families import FAMILIES

README = Path(__file__).parents[1] / "README.md"


def report(node: str, outcome: str = "passed", reason: str = "") -> Any:
    skipped = outcome == "skipped"
    return SimpleNamespace(
        nodeid=node, when="call", outcome=outcome, skipped=skipped, longrepr=("", 0, f"Skipped: {reason}")
    )


def test_readme_shows_the_latest_run() -> None:
    printed = support_table.table()
    assert printed in README.read_text()
    for name in FAMILIES:
        assert f"| {name} |" in printed


def test_cells_are_what_ran() -> None:
    recorder = support_table.Recorder()
    reports = [
        ("outer", report("1", "passed")),
        ("inner", report("2", "failed")),
        ("images", report("3", "skipped", "it takes none")),
        ("batches", report("4", "skipped", "no beams")),
        ("batches", report("5", "passed")),
    ]
    for column, one in reports:
        recorder.families[one.nodeid] = "a"
        recorder.columns[one.nodeid] = [column]
        recorder.pytest_runtest_logreport(one)
    row = recorder.table()["a"]
    assert row["outer"] == {"passed": 1, "failed": 0, "skipped": []}
    assert row["inner"]["failed"] == 1
    assert row["batches"] == {"passed": 1, "failed": 0, "skipped": ["no beams"]}
    assert row["images"] == {"passed": 0, "failed": 0, "skipped": ["it takes none"]}
