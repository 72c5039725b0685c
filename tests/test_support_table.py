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
    reports = {
        "test_matrix.py::test_one_row[outer-a]": report("", "passed"),
        "test_matrix.py::test_one_row[own-a]": report("", "failed"),
        "test_matrix.py::test_images_stay_whole[a]": report("", "skipped", "it takes none"),
        "test_matrix.py::test_beams[holitom-a]": report("", "skipped", "no beams"),
        "test_matrix.py::test_logits_stand_in_the_callers_columns[left-a]": report("", "passed"),
    }
    for node, one in reports.items():
        recorder.families[node] = "a"
        one.nodeid = node
        recorder.pytest_runtest_logreport(one)
    row = recorder.table()["a"]
    assert row["outer"] == {"passed": 1, "failed": 0, "skipped": []}
    assert row["inner"]["failed"] == 1
    assert row["batches"] == {"passed": 1, "failed": 0, "skipped": ["no beams"]}
    assert row["images"] == {"passed": 0, "failed": 0, "skipped": ["it takes none"]}
