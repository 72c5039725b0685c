"""The leaderboard: results of the accuracy bench of several models, as tables that compare methods.

A table has heads and rows of cells as text; `leaderboard_page` draws the same tables as HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from holitom.bench.published_accuracy import PUBLISHED_ACCURACY, Figure, PublishedTable
from holitom.bench.settings import FULL
from holitom.bench.tables import markdown_table
from holitom.costs import unit_of

Row = dict[str, Any]
Results = dict[str, Any]

CAUTION = (
    "These models have about 5 million parameters and the benchmark is synthetic. The figures say whether a "
    "method finds the tokens that a question needs, not how a large model does; they are not comparable with "
    "MVBench or any other real benchmark."
)
LOST = 0.10
"""Accuracy that a method must lose in a task, of 0..1, to be listed as failing there."""


class Cell(NamedTuple):
    """One cell: its text, and a value of 0..1 by which a page may shade it."""

    text: str
    shade: float | None = None


class Table(NamedTuple):
    """One table.

    Attributes:
        heads: heads of the columns; the first column holds names.
        rows: rows of as many cells.
    """

    heads: list[str]
    rows: list[list[Cell]]


def full_of(results: Results) -> Row:
    """The row of full tokens."""
    found: Row = results["settings"][0]
    return found


def methods_of(results: Results) -> list[Row]:
    """The rows of methods, refused ones among them."""
    return [row for row in results["settings"] if row["name"] != FULL.name]


def budgets_of(results: Results) -> list[float]:
    """The budgets, largest first, at which more than one method was asked for; all where there is none."""
    ratios = [row["retain_ratio"] for row in methods_of(results)]
    shared = {ratio for ratio in ratios if ratios.count(ratio) > 1}
    return sorted(shared or set(ratios), reverse=True)


def nearest(results: Results, retain_ratio: float) -> float:
    """The budget of the results that is nearest to `retain_ratio`."""
    return min(budgets_of(results), key=lambda ratio: abs(ratio - retain_ratio))


def ranked(results: Results, retain_ratio: float) -> list[Row]:
    """The rows of one budget, best average first, refused ones last."""
    rows = [row for row in methods_of(results) if row["retain_ratio"] == retain_ratio]
    return sorted(rows, key=lambda row: -row.get("average", -1.0))


def share_table(results: Results, retain_ratio: float) -> Table:
    """Share of full tokens' accuracy with its interval, method x budget, ranked at one budget."""
    ratios = budgets_of(results)
    by_key = {(row["label"], row["retain_ratio"]): row for row in methods_of(results)}
    order = (*ranked(results, nearest(results, retain_ratio)), *methods_of(results))
    labels = dict.fromkeys(row["label"] for row in order)
    rows = [[Cell(label), *(_share(by_key.get((label, ratio))) for ratio in ratios)] for label in labels]
    return Table(["", *(f"{100 * ratio:g}%" for ratio in ratios)], rows)


def _share(row: Row | None) -> Cell:
    if row is None or row["refused"] or row["of_full"] is None:
        return Cell("-")
    low, high = row["of_full_interval"]
    return Cell(f"{100 * row['of_full']:.1f} ({100 * low:.1f}-{100 * high:.1f})", min(1.0, row["of_full"]))


def cost_table(results: Results, retain_ratio: float) -> Table:
    """Tokens and operations at one budget, the cheapest prefill first."""
    full = full_of(results)
    rows = [row for row in ranked(results, nearest(results, retain_ratio)) if not row["refused"]]
    rows.sort(key=lambda row: float(row["prefill_operations"]))
    unit, scale = unit_of(full["prefill_operations"])
    heads = [
        "",
        "tokens",
        "tokens in the last layer",
        f"tower {unit}",
        f"prefill {unit}",
        "of full",
        "accuracy",
    ]

    def cells(row: Row) -> list[Cell]:
        tower = row["tower_operations"]
        return [
            Cell(row["label"]),
            Cell(f"{row['visual_tokens']:.0f}"),
            Cell(f"{row['visual_tokens_by_layer'][-1]['tokens']:.0f}"),
            Cell("-" if tower is None else f"{tower / scale:.2f}"),
            Cell(f"{row['prefill_operations'] / scale:.2f}"),
            Cell(f"{row['prefill_share']:.1%}"),
            Cell(f"{100 * row['average']:.1f}"),
        ]

    return Table(heads, [cells(row) for row in (full, *rows)])


def failure_table(results: Results, retain_ratio: float) -> Table:
    """Points lost to full tokens in each task at one budget, and the tasks where a method fails."""
    full, tasks = full_of(results), list(results["questions"]["by_task"])
    rows = []
    for row in ranked(results, nearest(results, retain_ratio)):
        if row["refused"]:
            continue
        change = {task: row["tasks"][task] - full["tasks"][task] for task in tasks}
        worst = [task for task in sorted(tasks, key=change.__getitem__) if change[task] <= -LOST + 1e-9]
        cells = [Cell(f"{100 * points:+.1f}", min(1.0, 1 + points)) for points in change.values()]
        rows.append([Cell(row["label"]), *cells, Cell(", ".join(worst) or "nowhere")])
    return Table(["", *tasks, "fails at"], rows)


def published_table(table: PublishedTable) -> Table:
    """A published table: mean accuracy, and its share of full tokens' in brackets."""
    rows = [[Cell(name), *map(_figure, row)] for name, row in table.rows.items()]
    return Table(["", *table.budgets], rows)


def _figure(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell("-")
    mean, share = figure
    return Cell(" ".join([*([f"{mean:.1f}"] if mean else []), *([f"({share:.1f})"] if share else [])]))


def refusals(results: Results) -> list[str]:
    """A sentence for each setting that was refused."""
    return [f"{row['title']}: {row['refused']}" for row in results["settings"] if row["refused"]]


def markdown(models: Sequence[Results], retain_ratio: float) -> str:
    """All tables in Markdown, this library's first and the published ones under a heading of their own."""
    parts = ["# Leaderboard", CAUTION]
    for results in models:
        at = f"at {100 * nearest(results, retain_ratio):g}% of the tokens"
        parts += [f"## {results['model']['name']}", about(results)]
        parts += ["### Share of full accuracy, %", _markdown(share_table(results, retain_ratio))]
        parts += [f"### Tokens and cost {at}", _markdown(cost_table(results, retain_ratio))]
        parts += [f"### Points lost by task {at}", _markdown(failure_table(results, retain_ratio))]
        parts += [f"- Refused: {text}" for text in refusals(results)]
    parts += ["## Published figures of large models", "Not measured here, and comparable with nothing above."]
    for table in PUBLISHED_ACCURACY:
        parts += [f"### {table.model}", published_about(table), _markdown(published_table(table))]
    return "\n\n".join(parts) + "\n"


def about(results: Results) -> str:
    """What was asked, and of which model on which machine."""
    asked, model, machine = results["questions"], results["model"], results["machine"]
    quick = "A quick run, with few questions: not for quoting. " if results["quick"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{quick}{results['benchmark']}: {asked['count']:,} held-out questions about {asked['videos']} "
        f"videos of {asked['frames']} frames, exact match; full tokens reach "
        f"{100 * full_of(results)['average']:.1f}% (average of the tasks). In brackets: 95% intervals. "
        f"Fingerprint {model['fingerprint']}, {model['dtype']}; "
        f"{machine['processor']}, {machine['device']}; {versions}."
    )


def published_about(table: PublishedTable) -> str:
    """Benchmarks, full accuracy and source of a published table."""
    return f"Mean of {table.benchmarks}, in brackets of full tokens' ({table.full}). Source: {table.source}."


def _markdown(table: Table) -> str:
    return markdown_table(table.heads, [[cell.text for cell in row] for row in table.rows])
