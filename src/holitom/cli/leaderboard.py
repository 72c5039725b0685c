"""`holitom bench leaderboard`: every method at every budget on every bundled model, in one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holitom.bundled import BUNDLED_MODELS, checkpoint
from holitom.cli.accuracy import draw, swept
from holitom.cli.app import bench, note, ratios, working
from holitom.cli.options import Dtype, Methods, check_least, check_run
from holitom.cli.sweeps import Batch, folder_of, output_folder, read_results, usually, write
from holitom.cli.tables import print_notes, print_table
from holitom.errors import SettingsError

RETAIN, QUICK_RETAIN = "0.25,0.2,0.15,0.1,0.05,0.02", "0.25,0.1,0.02"
PER_TASK, QUICK_PER_TASK = 150, 4
OUTPUT = Path("runs/leaderboard")


@bench.command("leaderboard")
def bench_leaderboard(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model; the option may be repeated. "
            f"[default: the bundled ones, {', '.join(BUNDLED_MODELS)}]"
        ),
    ] = None,
    methods: Methods = "all",
    retain: Annotated[str | None, usually("Shares of visual tokens to keep.", RETAIN)] = None,
    per_task: Annotated[int | None, usually("Held-out questions of each task.", PER_TASK)] = None,
    batch: Batch = 48,
    dtype: Dtype = "auto",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help=f"{QUICK_PER_TASK} questions a task at {QUICK_RETAIN}: under ten minutes."
        ),
    ] = False,
    output: Annotated[Path | None, folder_of("answers, tables, pictures and page", OUTPUT)] = None,
    rank_at: Annotated[float, typer.Option(help="Budget that methods are ranked at.")] = 0.10,
    report: Annotated[
        Path | None, typer.Option(help="Answer nothing: draw and print again what this folder holds.")
    ] = None,
) -> None:
    """Every method at every budget on every model: accuracy, tokens, cost, and where each fails.

    Accuracy tables go to stdout; leaderboard.html, leaderboard.md and a folder for each model to the output.
    """
    if report is not None:
        folders = sorted(path.parent for path in report.glob("*/results.json"))
        if not folders:
            raise SettingsError(
                f"{report} holds no results; `holitom bench leaderboard --output {report}` makes them"
            )
        _publish([(read_results(folder), folder) for folder in folders], report, rank_at)
        return
    check_least("batch", batch)
    names = list(dict.fromkeys(model or BUNDLED_MODELS))
    wanted = ratios(retain or (QUICK_RETAIN if quick else RETAIN))
    count = per_task if per_task is not None else QUICK_PER_TASK if quick else PER_TASK
    folder = output_folder(output, OUTPUT, quick)
    for name in names:
        check_run(dtype, "auto", model=name)

    with working("Loading PyTorch"):
        import holitom.bench.plots  # noqa: F401  (an ImportError says now which extra is missing)
        from holitom.bench.questions import held_out_questions
        from holitom.bench.settings import budgets
        from holitom.bench.tower_cost import tower_operations
        from holitom.methods.choose import read_methods

    settings = budgets(read_methods(methods), wanted)
    with working("Choosing questions"):
        items = held_out_questions(count)
    found = []
    for name in names:
        own = folder / Path(name).name
        results = swept(name, dtype, settings, items, own, batch, quick)
        frames = results["questions"]["frames"]
        for setting, row in zip(settings, results["settings"], strict=True):
            row["tower_operations"] = tower_operations(checkpoint(name), frames, setting.method)
        found.append((results, own))
    _publish(found, folder, rank_at)


def _publish(found: list[tuple[dict[str, Any], Path]], folder: Path, rank_at: float) -> None:
    """Write tables, pictures and page into `folder`, and print the table of each model."""
    from holitom.bench.leaderboard import CAUTION, about, markdown, share_table
    from holitom.bench.leaderboard_page import leaderboard_page

    drawn = []
    for results, own in found:
        write(results, own)
        drawn.append((results, draw(results, own, rank_at)))
    (folder / "leaderboard.md").write_text(markdown([results for results, _ in found], rank_at))
    (folder / "leaderboard.html").write_text(leaderboard_page(drawn, rank_at))
    for results, _ in found:
        heads, rows = share_table(results, rank_at)
        print_notes(f"{results['model']['name']}: share of full accuracy in percent, with 95% intervals")
        print()
        print_table(heads, [[cell.text for cell in row] for row in rows])
        print_notes("", about(results), "")
    print_notes(CAUTION)
    note(f"The page: {folder / 'leaderboard.html'}")
