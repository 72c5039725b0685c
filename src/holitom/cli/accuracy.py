"""`holitom bench accuracy`: what a model still answers when its visual tokens are merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holitom.cli.app import BUNDLED_MODEL, bench, notes, print_table, quiet_transformers, ratios
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.bench.accuracy import Outcome
    from holitom.methods import Method


@bench.command("accuracy")
def bench_accuracy(
    model: Annotated[
        str | None, typer.Option(help="A checkpoint's folder. [default: the bundled model]")
    ] = None,
    retain: Annotated[str, typer.Option(help="Shares of visual tokens to keep.")] = "0.25,0.2,0.15,0.1",
    per_task: Annotated[int, typer.Option(help="Held-out questions of each of the seven tasks.")] = 150,
    batch: Annotated[int, typer.Option(help="Questions answered at a time.")] = 14,
    output: Annotated[Path, typer.Option(help="Where answers are kept; a killed run goes on there.")] = Path(
        "runs/accuracy"
    ),
) -> None:
    """MovingDigits-QA: exact match by task, with full tokens and with HoliTom at every budget."""
    from rich.progress import Progress

    if per_task < 1 or batch < 1:
        raise SettingsError(f"per-task and batch must be at least 1, not {per_task} and {batch}")
    settings = _budgets(retain)
    name = model or str(BUNDLED_MODEL)
    quiet_transformers(name)

    from holitom.ask import load_model
    from holitom.bench.accuracy import Setting, evaluate, held_out_questions

    loaded, processor = load_model(name)
    items = held_out_questions(per_task)
    outcomes = []
    with Progress(console=notes, transient=True) as progress:
        for label, method in settings.items():
            task = progress.add_task(label, total=len(items))
            outcomes.append(
                evaluate(
                    loaded,
                    processor,
                    Setting(label, method),
                    items,
                    output,
                    batch,
                    lambda done, task=task: progress.advance(task, done),  # type: ignore[misc]
                )
            )
    _print_accuracy(outcomes)


def _budgets(retain: str) -> dict[str, Method | None]:
    """Full tokens, then HoliTom with and without its inner stage at every budget of `0.25,0.1`."""
    from holitom.methods import HoliTom

    settings: dict[str, Method | None] = {"full tokens": None}
    for ratio in ratios(retain):
        settings[f"HoliTom w/o M {ratio:.0%}"] = HoliTom(retain_ratio=ratio, inner_drop=None)
        settings[f"HoliTom {ratio:.0%}"] = HoliTom(retain_ratio=ratio)
    return settings


def _print_accuracy(outcomes: list[Outcome]) -> None:
    from rich.table import Table

    full = outcomes[0].average
    tasks = list(dict.fromkeys(outcomes[0].tasks))
    table = Table("", "tokens", *tasks, "average", "of full", box=None, pad_edge=False, header_style="bold")
    for outcome in outcomes:
        by_task = [f"{100 * outcome.of_task(task):.1f}" for task in tasks]
        share = f"{outcome.average / full:.1%}" if full else "-"
        average = f"{100 * outcome.average:.1f}"
        table.add_row(outcome.setting.label, f"{outcome.tokens.mean():.0f}", *by_task, average, share)
    print_table(table)
