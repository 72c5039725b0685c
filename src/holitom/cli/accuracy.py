"""`holitom bench accuracy`: a model's accuracy on MovingDigits-QA with merged visual tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.bundled import title_of
from holitom.cli import sweeps
from holitom.cli.app import bench, load, ratios, working
from holitom.cli.options import Dtype, FramesBy, Methods, Model, check_least, check_run

if TYPE_CHECKING:
    from holitom.bench.moving_camera import View
    from holitom.bench.questions import Item
    from holitom.bench.settings import Setting

RETAIN, QUICK_RETAIN = "0.25,0.2,0.15,0.1,0.05", "0.25,0.1"
PER_TASK, QUICK_PER_TASK = 150, 20
OUTPUT = Path("runs/accuracy")


@bench.command("accuracy")
def bench_accuracy(
    model: Model = None,
    methods: Methods = "all",
    retain: Annotated[str | None, sweeps.usually("Shares of visual tokens to keep.", RETAIN)] = None,
    tasks: sweeps.Tasks = "all",
    per_task: Annotated[int | None, sweeps.usually("Held-out questions of each task.", PER_TASK)] = None,
    first_video: sweeps.FirstVideo = 0,
    camera: Annotated[
        str, typer.Option(help="Camera before the videos: still, pan, zoom or shake.")
    ] = "still",
    frames: Annotated[int, typer.Option(help="Frames to show, of the 16 of each video.")] = 16,
    frames_by: FramesBy = "time",
    batch: sweeps.Batch = 48,
    dtype: Dtype = "auto",
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"{QUICK_PER_TASK} questions a task at {QUICK_RETAIN}: a few minutes."),
    ] = False,
    output: Annotated[Path | None, sweeps.folder_of("answers, results and pictures", OUTPUT)] = None,
    by_task: Annotated[float, typer.Option(help="Budget that the picture by task shows.")] = 0.10,
    markdown: sweeps.MarkdownTable = False,
    report: sweeps.Report = None,
) -> None:
    """MovingDigits-QA: exact match by task, with full tokens and with every method at every budget.

    The table goes to stdout; results.json, results.csv and two pictures go to the output folder.
    """
    if report is not None:
        _publish(sweeps.read_results(report), report, by_task, markdown)
        return
    check_least("batch", batch)
    wanted = ratios(retain or (QUICK_RETAIN if quick else RETAIN))
    count = per_task if per_task is not None else QUICK_PER_TASK if quick else PER_TASK
    folder = sweeps.output_folder(output, OUTPUT, quick)
    check_run(dtype, "auto", model=model)

    with working("Loading PyTorch"):
        import holitom.bench.plots  # noqa: F401  (an ImportError says now which extra is missing)
        from holitom.bench.moving_camera import View
        from holitom.bench.moving_digits import TASKS
        from holitom.bench.questions import held_out_questions
        from holitom.bench.settings import budgets
        from holitom.methods.choose import read_methods

    view = View(camera, frames, frames_by)
    view.check()
    folder = view.folder(folder)
    settings = budgets(read_methods(methods), wanted)
    with working("Choosing questions"):
        items = held_out_questions(count, TASKS if tasks == "all" else tuple(tasks.split(",")), first_video)
    found = swept(model, dtype, settings, items, folder, batch, quick, view)
    _publish(found, folder, by_task, markdown)


def swept(
    name: str | None,
    dtype: str,
    settings: list[Setting],
    items: list[Item],
    folder: Path,
    batch: int,
    quick: bool,
    view: View | None = None,
) -> dict[str, Any]:
    """Answer the questions that are not answered yet, and score all answers."""
    from holitom.bench.accuracy import resumed, sweep, tried
    from holitom.bench.moving_camera import WHOLE, shown
    from holitom.bench.scores import results

    view = view or WHOLE
    seen = partial(shown, view=view)
    model, processor = load(name, dtype)
    settings = tried(settings, model, processor, draw=seen)
    files = resumed(model, settings, items, folder, batch)
    with sweeps.answering(settings, files, items, folder) as advance:
        sweep(model, processor, files, items, batch, advance, seen)
    found = results(model, title_of(name), items, settings, files, quick, view.frames)
    found["benchmark"] += view.title
    return found


def _publish(results: dict[str, Any], folder: Path, by_task: float, markdown: bool) -> None:
    draw(results, folder, by_task)
    sweeps.publish(results, folder, markdown)


def draw(results: dict[str, Any], folder: Path, by_task: float) -> list[Path]:
    """Draw the pictures of accuracy against cost and by task, at the budget `by_task`, into `folder`."""
    from holitom.bench.plots import plot_against_cost, plot_by_task

    return [
        plot_against_cost(results, folder / "accuracy_vs_flops.svg"),
        plot_by_task(results, folder / "accuracy_by_task.svg", by_task),
    ]
