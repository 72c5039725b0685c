"""The leaderboard: one page of every model's results, whose figures are those of the answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from holitom.bench.leaderboard import cost_table, failure_table, markdown, share_table
from holitom.bench.leaderboard_page import leaderboard_page
from holitom.bench.published_accuracy import PUBLISHED_ACCURACY
from holitom.cli import main

TASKS = ("needle", "order")


def row(label: str, ratio: float, needle: float, order: float, **other: Any) -> dict[str, Any]:
    """A row of `results.json` without the figures that the leaderboard does not read."""
    average = (needle + order) / 2
    ends = [average - 0.1, average + 0.1]
    found = {
        "name": label.lower(),
        "label": label,
        "retain_ratio": ratio,
        "refused": None,
        "average": average,
    }
    found |= {"title": f"{label} {ratio:.0%}", "of_full": average, "of_full_interval": ends}
    found |= {
        "tasks": {"needle": needle, "order": order},
        "visual_tokens": 100 * ratio,
        "prefill_share": ratio,
    }
    found |= {"visual_tokens_by_layer": [{"start": 0, "tokens": 100 * ratio}], "tower_operations": 2e9}
    return found | {"prefill_operations": 1e9 * ratio} | other


@pytest.fixture
def results() -> dict[str, Any]:
    """Full tokens, and three methods at two budgets, one of them refused at the smaller."""
    settings = [row("full", 1.0, 1.0, 1.0)]
    settings += [row("Good", 0.25, 1.0, 0.9), row("Cheap", 0.25, 0.7, 0.95, prefill_operations=1e8)]
    settings += [row("Good", 0.1, 0.95, 0.85), row("Cheap", 0.1, 1.0, 0.99, tower_operations=None)]
    settings += [
        {"name": "few", "label": "Few", "title": "Few 10%", "retain_ratio": 0.1, "refused": "<too few>"}
    ]
    return {
        "benchmark": "MovingDigits-QA",
        "quick": False,
        "settings": settings,
        "questions": {"by_task": dict.fromkeys(TASKS, 5), "count": 10, "videos": 5, "frames": 16},
        "model": {"name": "the model A&B", "fingerprint": "abc", "dtype": "float32"},
        "machine": {"processor": "a processor", "device": "cpu"},
        "versions": {"holitom": "1"},
    }


def text(cells: list[Any]) -> list[str]:
    return [cell.text for cell in cells]


def test_methods_are_ranked_at_a_budget(results: dict[str, Any]) -> None:
    at_10, at_25 = share_table(results, 0.1), share_table(results, 0.25)
    assert at_10.heads == at_25.heads == ["", "25%", "10%"]
    assert [cells[0].text for cells in at_10.rows] == ["Cheap", "Good", "Few"]
    assert [cells[0].text for cells in at_25.rows][:2] == ["Good", "Cheap"]
    assert text(at_10.rows[1]) == ["Good", "95.0 (85.0-105.0)", "90.0 (80.0-100.0)"]
    assert text(at_10.rows[2]) == ["Few", "-", "-"]
    assert share_table(results, 0.12).rows == at_10.rows  # the nearest budget


def test_costs_begin_with_the_cheapest_and_hold_full_tokens(results: dict[str, Any]) -> None:
    first, *others = cost_table(results, 0.25).rows
    assert text(first) == ["full", "100", "100", "2.00", "1.00", "100.0%", "100.0"]
    assert text(others[0])[:5] == ["Cheap", "25", "25", "2.00", "0.10"]
    assert {cells[3].text for cells in cost_table(results, 0.1).rows[1:]} == {"-", "2.00"}


def test_where_a_method_fails(results: dict[str, Any]) -> None:
    table = failure_table(results, 0.25)
    assert table.heads == ["", *TASKS, "fails at"]
    assert text(table.rows[0]) == ["Good", "+0.0", "-10.0", "order"]
    assert text(table.rows[1]) == ["Cheap", "-30.0", "-5.0", "needle"]
    assert text(failure_table(results, 0.1).rows[0])[-1] == "nowhere"


def test_the_page_is_whole_and_keeps_published_figures_apart(results: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "accuracy_vs_flops.svg"
    picture.write_text("<svg/>")
    page = leaderboard_page([(results, [picture])], 0.1)
    assert page.startswith("<!doctype html>")
    assert "the model A&amp;B" in page
    assert "&lt;too few&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    assert "data:image/svg+xml;base64,PHN2Zy8+" in page
    ours, theirs = page.split('<section class="theirs">')
    assert "not comparable with MVBench" in ours
    assert "Not measured here" in theirs
    for table in PUBLISHED_ACCURACY:
        assert table.model not in ours
        assert all(len(figures) == len(table.budgets) for figures in table.rows.values())
        assert all(f">{name}</th>" in theirs for name in table.rows)
    assert markdown([results], 0.1).index("Not measured here") > markdown([results], 0.1).index("Good")


def test_the_command_runs_goes_on_and_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "leaderboard", "--model", "moving-digits", "--methods", "holitom-plus,uniform"]
    command += ["--retain", "0.25,0.05", "--per-task", "1", "--dtype", "float32", "--output", str(tmp_path)]
    assert main(command) == 0
    table = capfd.readouterr().out
    assert "the bundled model moving-digits: share of full accuracy" in table
    assert "not comparable with MVBench" in " ".join(table.split())
    own = tmp_path / "moving-digits"
    found = json.loads((own / "results.json").read_text())
    assert found["settings"][1]["tower_operations"] > found["settings"][0]["tower_operations"] > 1e9
    assert {path.name for path in own.glob("*.svg")} == {"accuracy_vs_flops.svg", "accuracy_by_task.svg"}
    pages = {path: path.read_bytes() for path in tmp_path.glob("leaderboard.*")}
    assert len(pages) == 2
    assert b"Uniform keeps whole frames" in pages[tmp_path / "leaderboard.html"]
    assert main(["bench", "leaderboard", "--report", str(tmp_path)]) == 0
    assert capfd.readouterr().out == table
    assert {path: path.read_bytes() for path in tmp_path.glob("leaderboard.*")} == pages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--retain", "0"], "retain must be numbers in (0, 1]"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--report", "nowhere"], "nowhere holds no results"),
        (["--methods", "magic"], "unknown method"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "leaderboard", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
