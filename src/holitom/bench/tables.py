"""The accuracy table of `results.json` for terminals, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from holitom.costs import unit_of

Row = dict[str, Any]


def accuracy_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """Lay out the paper's columns: prefill cost, tokens sent, accuracy in each task, and their average.

    Returns:
        Heads of the columns, a row for each setting, and notes to print below.
    """
    tasks = list(results["questions"]["by_task"])
    full = results["settings"][0]["prefill_operations"]
    unit, scale = unit_of(full)
    further = _further(results["settings"][0], scale)
    heads = ["", *further, unit, "ratio", "kept", *tasks, "average", "of full", "95%"]

    def cells(row: Row) -> list[str]:
        before = [row["title"], *_further(row, scale).values()]
        if row["refused"]:
            return [*before, "refused", *["-"] * (len(heads) - len(before) - 1)]
        share, ends = row["of_full"], row["of_full_interval"]
        return [
            *before,
            f"{row['prefill_operations'] / scale:.2f}",
            f"{row['prefill_share']:.1%}",
            f"{row['visual_tokens_share']:.1%}",
            *(f"{100 * row['tasks'][task]:.1f}" for task in tasks),
            f"{100 * row['average']:.1f}",
            "-" if share is None else f"{share:.1%}",
            "-" if ends is None else f"{100 * ends[0]:.1f}-{100 * ends[1]:.1f}",
        ]

    return heads, [cells(row) for row in results["settings"]], _notes(results)


def _further(row: Row, scale: float) -> dict[str, str]:
    """Cells by head of what only some benches count: frames, text tokens and the tower's operations."""
    cells = {}
    if "frames" in row:
        cells["frames"] = str(row["frames"])
    if "text_tokens" in row:
        cells["text"] = f"{row['text_tokens']:,}"
    if "tower_operations" in row:
        count = row["tower_operations"]
        cells["tower"] = "-" if count is None else f"{count / scale:.2f}"
    return cells


def _notes(results: dict[str, Any]) -> list[str]:
    model, asked, machine = results["model"], results["questions"], results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    notes = ["A QUICK RUN, with few questions and budgets: not for quoting."] if results["quick"] else []
    notes += [
        f"{results['benchmark']}, {asked['count']:,} held-out questions about {asked['videos']} videos of "
        f"{asked['frames']} frames; exact match in percent. Model: {model['name']} ({model['fingerprint']}, "
        f"{model['dtype']}). Machine: {machine['processor']}, {machine['cores']} cores, threads used: "
        f"{machine['threads']}, {machine['device']}; {versions}.",
        "FLOPs: prefill of the visual tokens in each layer, by the paper's formula; mean over questions. "
        "ratio: FLOPs as a share of full tokens'. kept: share of the visual tokens that entered the language "
        "model. of full: share of full tokens' average. 95%: its interval by paired bootstrap "
        f"({results['bootstrap']['resamples']:,} resamples of the questions within tasks).",
    ]
    if whole := results.get("whole_frames"):
        notes.append(
            f"frames: sampled from each video, evenly. Methods send as many visual tokens as {whole} frames "
            "have with full tokens, to which ratio, kept and of full refer. text: other tokens of the "
            "prompt, timestamps among them."
        )
    if "tower_operations" in results["settings"][0]:
        notes.append(
            "tower: operations of vision tower and projector, two for each multiply-add, with what the "
            "method reads; -: they depend on the video."
        )
    refused = [f"{row['title']} refused: {row['refused']}." for row in results["settings"] if row["refused"]]
    return notes + refused


def as_markdown(results: dict[str, Any]) -> str:
    """The table in Markdown, with its notes."""
    heads, rows, notes = accuracy_table(results)
    return "\n\n".join([markdown_table(heads, rows), *notes])


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, the first column to the left and the others to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_csv(results: dict[str, Any]) -> str:
    """The table as CSV, one line for each setting; shares and accuracies in 0..1, empty where refused."""
    tasks = list(results["questions"]["by_task"])
    figures = ["visual_tokens", "visual_tokens_share", "prefill_operations", "prefill_share"]
    scores = ["average", "difference", "of_full"]
    further = [
        name for name in ("frames", "text_tokens", "tower_operations") if name in results["settings"][0]
    ]
    heads = ["name", "label", "retain_ratio", *further, *figures, *tasks]
    heads += [name for score in scores for name in (score, f"{score}_low", f"{score}_high")]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*heads, "refused"], lineterminator="\n")
    writer.writeheader()
    for row in results["settings"]:
        ends = {
            f"{score}_{end}": row[f"{score}_interval"][index]
            for score in scores
            for index, end in enumerate(("low", "high"))
            if row.get(f"{score}_interval")
        }
        known = {name: value for name, value in row.items() if name in heads or name == "refused"}
        writer.writerow({**known, **row.get("tasks", {}), **ends})
    return text.getvalue()
