"""`holitom bench long-videos`: few whole frames of a long video against many merged ones, at equal cost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from holitom.bundled import checkpoint, title_of
from holitom.cli import sweeps
from holitom.cli.app import bench, load, working
from holitom.cli.options import Dtype, Methods, Model, check_least, check_run
from holitom.errors import SettingsError

FRAMES, QUICK_FRAMES = "32,64,128,256", "64,256"
PER_TASK, QUICK_PER_TASK = 30, 5
OUTPUT = Path("runs/long-videos")
USUAL = "holitom,holitom-plus,vidcom2,fastvid,gleanvid,evs"


@bench.command("long-videos")
def bench_long_videos(
    model: Model = None,
    methods: Methods = USUAL,
    frames: Annotated[str | None, sweeps.usually("Frames that the methods see.", FRAMES)] = None,
    whole: Annotated[int, typer.Option(help="Frames with full tokens, whose cost all settings have.")] = 16,
    full_at: Annotated[
        str, typer.Option(help="Further numbers of frames with full tokens, at a higher cost, such as 32,64.")
    ] = "",
    length: Annotated[int, typer.Option(help="Frames of each video, 64 to 256.")] = 256,
    tasks: sweeps.Tasks = "all",
    per_task: Annotated[int | None, sweeps.usually("Questions of each task.", PER_TASK)] = None,
    first_video: sweeps.FirstVideo = 0,
    batch: sweeps.Batch = 16,
    dtype: Dtype = "auto",
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"{QUICK_PER_TASK} questions a task at {QUICK_FRAMES} frames."),
    ] = False,
    output: Annotated[Path | None, sweeps.folder_of("answers, results and picture", OUTPUT)] = None,
    markdown: sweeps.MarkdownTable = False,
    report: sweeps.Report = None,
) -> None:
    """More video for the same tokens: methods on many frames against few frames with full tokens.

    The table goes to stdout; results.json, results.csv and a picture go to the output folder.
    """
    if report is not None:
        _publish(sweeps.read_results(report, "whole_frames"), report, markdown)
        return
    check_least("batch", batch)
    if not 64 <= length <= 256:
        raise SettingsError(f"length must be in 64..256 frames, not {length}")
    counts = _counts("frames", frames or (QUICK_FRAMES if quick else FRAMES), length)
    further = _counts("full-at", full_at, length) if full_at else []
    count = per_task if per_task is not None else QUICK_PER_TASK if quick else PER_TASK
    folder = sweeps.output_folder(output, OUTPUT, quick)
    check_run(dtype, "auto", model=model)

    with working("Loading PyTorch"):
        import holitom.bench.plots  # noqa: F401  (an ImportError says now which extra is missing)
        from holitom.bench.accuracy import sweep
        from holitom.bench.long_videos import groups, long_results, opened, sampled
        from holitom.bench.moving_digits import TASKS
        from holitom.bench.questions import held_out_questions
        from holitom.methods.choose import read_methods

    planned = groups(read_methods(methods), counts, whole, further)
    with working("Choosing questions"):
        names = TASKS if tasks == "all" else tuple(tasks.split(","))
        items = held_out_questions(count, names, first_video, "long", length)
    live, processor = load(model, dtype)
    with working("Trying the settings"):
        planned, files = opened(live, processor, planned, items, folder, length, batch)
    settings = [setting for group in planned for setting in group.settings]
    with sweeps.answering(settings, [file for group in files for file in group], items, folder) as advance:
        for group, own in zip(planned, files, strict=True):  # fewest frames first
            draw = partial(sampled, frames=group.frames, length=length)
            sweep(live, processor, own, items, batch, advance, draw)
    shapes, title = checkpoint(model), title_of(model)
    found = long_results(live, processor, shapes, title, items, planned, files, length, quick)
    _publish(found, folder, markdown)


def _counts(name: str, text: str, length: int) -> list[int]:
    """Read numbers of frames, each at most `length`."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"{name} must be numbers of frames such as 32,64, not {text!r}") from None
    for count in counts:
        if not 1 <= count <= length:
            raise SettingsError(f"{name} must be in 1..{length}, the frames of a video, not {count}")
    return counts


def _publish(results: dict[str, Any], folder: Path, markdown: bool) -> None:
    from holitom.bench.plots import plot_against_frames

    sweeps.publish(results, folder, markdown)
    plot_against_frames(results, folder / "accuracy_vs_frames.svg")
