"""`holitom bench accuracy`: a model's accuracy on MovingDigits-QA with merged visual tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.bundled import title_of
from holitom.cli.app import bench, load, note, progress, ratios, working
from holitom.cli.options import Dtype, Methods, Model, check_run
from holitom.cli.tables import print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.bench.questions import Item
    from holitom.bench.settings import Setting

RETAIN, QUICK_RETAIN = "0.25,0.2,0.15,0.1,0.05", "0.25,0.1"
PER_TASK, QUICK_PER_TASK = 150, 20
CAMERAS = ("still", "pan", "zoom", "shake")
OUTPUT = Path("runs/accuracy")


@bench.command("accuracy")
def bench_accuracy(
    model: Model = None,
    methods: Methods = "all",
    retain: Annotated[
        str | None, typer.Option(help=f"Shares of visual tokens to keep. [default: {RETAIN}]")
    ] = None,
    tasks: Annotated[str, typer.Option(help="all, or some of the seven with commas between.")] = "all",
    per_task: Annotated[
        int | None, typer.Option(help=f"Held-out questions of each task. [default: {PER_TASK}]")
    ] = None,
    first_video: Annotated[
        int, typer.Option(help="Video that the questions begin at. For trying out what is developed: 100000.")
    ] = 0,
    camera: Annotated[
        str, typer.Option(help="Camera before the videos: still, pan, zoom or shake.")
    ] = "still",
    batch: Annotated[int, typer.Option(help="Questions answered at a time.")] = 48,
    dtype: Dtype = "auto",
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"{QUICK_PER_TASK} questions a task at {QUICK_RETAIN}: a few minutes."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of answers, results and pictures; a killed run goes on there. "
            f"[default: {OUTPUT}, with --quick {OUTPUT}-quick]"
        ),
    ] = None,
    by_task: Annotated[float, typer.Option(help="Budget that the picture by task shows.")] = 0.10,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Answer nothing: draw and print again what this folder's results.json holds."),
    ] = None,
) -> None:
    """MovingDigits-QA: exact match by task, with full tokens and with every method at every budget.

    The table goes to stdout; results.json, results.csv and two pictures go to the output folder.
    """
    if report is not None:
        _publish(read_results(report), report, by_task, markdown)
        return
    if batch < 1:
        raise SettingsError(f"batch must be at least 1, not {batch}")
    wanted = ratios(retain or (QUICK_RETAIN if quick else RETAIN))
    count = per_task if per_task is not None else QUICK_PER_TASK if quick else PER_TASK
    folder = output or (OUTPUT.with_name(f"{OUTPUT.name}-quick") if quick else OUTPUT)
    if camera not in CAMERAS:
        raise SettingsError(f"unknown camera {camera!r}; known: {', '.join(CAMERAS)}")
    folder = folder if camera == "still" else folder / camera
    check_run(dtype, "auto", model=model)

    with working("Loading PyTorch"):
        import holitom.bench.plots  # noqa: F401  (an ImportError says now which extra is missing)
        from holitom.bench.moving_digits import TASKS
        from holitom.bench.questions import held_out_questions
        from holitom.bench.settings import budgets
        from holitom.methods.choose import read_methods

    settings = budgets(read_methods(methods), wanted)
    with working("Choosing questions"):
        items = held_out_questions(count, TASKS if tasks == "all" else tuple(tasks.split(",")), first_video)
    found = swept(model, dtype, settings, items, folder, batch, quick, camera)
    _publish(found, folder, by_task, markdown)


def swept(
    name: str | None,
    dtype: str,
    settings: list[Setting],
    items: list[Item],
    folder: Path,
    batch: int,
    quick: bool,
    camera: str = "still",
) -> dict[str, Any]:
    """Answer the questions that are not answered yet, and score all answers."""
    from holitom.bench.accuracy import resumed, sweep, tried
    from holitom.bench.moving_camera import draws
    from holitom.bench.scores import results

    model, processor = load(name, dtype)
    title = title_of(name)
    settings = tried(settings, model, processor)
    if refused := [setting.title for setting in settings if setting.refused]:
        note(f"Refused, as the table will say: {', '.join(refused)}")
    files = resumed(model, settings, items, folder, batch)
    done, total = sum(len(file.done) for file in files), len(files) * len(items)
    note(f"{len(items):,} questions under {len(files)} settings, {done:,} of {total:,} answered, in {folder}")
    with progress("Answering", total, done) as advance:
        sweep(model, processor, files, items, batch, advance, draws(camera))
    found = results(model, title, items, settings, files, quick)
    if camera != "still":
        found["benchmark"] += f", moving camera ({camera})"
    return found


def read_results(folder: Path, *needed: str) -> dict[str, Any]:
    """Read `results.json` in `folder`, which must have the entries `needed`.

    Raises:
        SettingsError: there is none, or it is another benchmark's.
    """
    path = folder / "results.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = [found[name] for name in ("settings", "bootstrap", *needed)]
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: no such file; the same command with --output {folder} in the place of --report makes it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is no results file of this benchmark") from error
    return found


def _publish(results: dict[str, Any], folder: Path, by_task: float, markdown: bool) -> None:
    draw(results, folder, by_task)
    publish(results, folder, markdown)


def draw(results: dict[str, Any], folder: Path, by_task: float) -> list[Path]:
    """Draw the pictures of accuracy against cost and by task, at the budget `by_task`, into `folder`."""
    from holitom.bench.plots import plot_against_cost, plot_by_task

    return [
        plot_against_cost(results, folder / "accuracy_vs_flops.svg"),
        plot_by_task(results, folder / "accuracy_by_task.svg", by_task),
    ]


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results as JSON and CSV into `folder`."""
    from holitom.bench.tables import as_csv

    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.csv").write_text(as_csv(results))


def publish(results: dict[str, Any], folder: Path, markdown: bool) -> None:
    """Write results into `folder`, and print the table."""
    from holitom.bench.tables import accuracy_table, as_markdown

    write(results, folder)
    if markdown:
        print(as_markdown(results))
        return
    heads, rows, below = accuracy_table(results)
    print_table(heads, rows)
    print_notes("", *below)
