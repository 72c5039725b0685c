"""`holitom bench reuse` and `holitom drift`: computed share, answers and drift of reuse in the vision
tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.cli import options
from holitom.cli.app import app, bench, check_video, load, note, progress, read_video, working
from holitom.cli.sweeps import Batch, FirstVideo
from holitom.cli.tables import print_answers, print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.bench.drift import Drift

PixelThreshold = Annotated[
    float | None,
    typer.Option(
        help="Largest difference from the reference frame, in levels of 0..255, at which a patch counts as "
        "unchanged. [default: the vision tower's, 16]"
    ),
]
Reach = Annotated[int, typer.Option(help="Largest number of frames that share a reference frame.")]


@app.command()
def drift(
    video: options.VideoFile = None,
    question: options.Question = None,
    model: options.Model = None,
    method: options.MethodName = "holitom",
    retain: options.Retain = None,
    inner: options.Inner = None,
    tower_batch: options.TowerBatch = None,
    reuse_threshold: PixelThreshold = None,
    reach: Reach = 8,
    frames: options.Frames = None,
    frames_by: options.FramesBy = "time",
    max_new_tokens: options.MaxNewTokens = 64,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Show what reuse in the vision tower changes on your own video.

    Prints the share of the tower that is computed, the cosine similarity of visual tokens to the stock
    tower's, the share of kept tokens that are the same, and both answers.
    """
    file, asked = options.file_and_question(video, question, "drift")
    options.check_run(dtype, device, max_new_tokens, model)
    with working("Loading PyTorch"):
        from holitom.ask import prompt
        from holitom.bench.drift import drift as measured
        from holitom.tower import Reuse
        from holitom.video.fitting import fit_of

    reuse = Reuse(threshold=reuse_threshold, reach=reach)
    chosen = options.method_asked(method, retain, inner=inner, tower_batch=tower_batch).make()
    sampling = options.sampling_asked(frames, model, frames_by)
    check_video(file)
    loaded, processor = load(model, dtype, device)
    clip = read_video(file, sampling, fit_of(processor))
    with working("Answering over both towers"):
        inputs = prompt(processor, clip, asked)
        found = measured(loaded, processor, inputs, chosen, reuse, max_new_tokens)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        _print_drift(asked, found)


def _print_drift(question: str, found: Drift) -> None:
    print_answers(question, [("stock tower", found.stock.text), ("reuse", found.reused.text)])
    print()
    before, after = found.seconds
    cosines = found.cosines
    rows = [
        ("tower computed", "100.0%", f"{found.report.computed_share:.1%}", ""),
        ("encoder", f"{1000 * before:.1f} ms", f"{1000 * after:.1f} ms", f"{before / after:.2f}x"),
        ("cosine of visual tokens, mean", "1", f"{cosines.mean:.4f}", ""),
        ("cosine, first percentile", "1", f"{cosines.first_percentile:.4f}", ""),
        ("cosine, lowest", "1", f"{cosines.lowest:.4f}", ""),
    ]
    if found.kept_overlap is not None:
        rows.append(("kept tokens in common", "100.0%", f"{found.kept_overlap:.1%}", ""))
    print_table(("", "stock tower", "reuse", ""), rows)
    print_notes(
        "",
        "cosine: similarity of each visual token to the stock tower's. Kept tokens: those that the method "
        "sends. x: times as fast.",
    )
    references = found.report.references[0] if found.report.references else ()
    note(f"Reference frames: {', '.join(map(str, references)) or 'none'}")
    if found.report.stock:
        note(f"The stock tower ran: {found.report.stock}")


@bench.command("reuse")
def bench_reuse(
    model: options.Model = None,
    methods: options.Methods = "full,holitom,holitom-plus",
    retain: Annotated[float, typer.Option(help="Share of visual tokens to keep.")] = 0.1,
    disturb: Annotated[
        str,
        typer.Option(
            help="Disturbances with commas between: none, noise, flicker, jpeg, faint, pan; or all."
        ),
    ] = "none",
    camera: Annotated[
        str, typer.Option(help="Cameras with commas between: still, pan, zoom, shake; or all.")
    ] = "still",
    per_task: Annotated[int, typer.Option(help="Held-out questions of each task.")] = 150,
    first_video: FirstVideo = 0,
    reuse_threshold: PixelThreshold = None,
    reach: Reach = 8,
    batch: Batch = 48,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of figures, from which a run that was stopped goes on.", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Begin no further batches after so many minutes, and print the figures so far.",
            show_default=False,
        ),
    ] = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """MovingDigits-QA over the stock tower and with reuse: share computed, answers, drift."""
    with working("Loading PyTorch"):
        from holitom.bench.answers import make_folder
        from holitom.bench.moving_camera import CAMERAS
        from holitom.bench.questions import held_out_questions
        from holitom.bench.reuse import DISTURBANCES, check_shown, sweep
        from holitom.methods.choose import read_methods
        from holitom.tower import Reuse

    reuse = Reuse(threshold=reuse_threshold, reach=reach)
    chosen = {choice.text: choice.make(retain) for choice in read_methods(methods)}
    wanted = list(DISTURBANCES) if disturb == "all" else disturb.split(",")
    cameras = list(CAMERAS) if camera == "all" else camera.split(",")
    shown = [(one, disturbance) for one in cameras for disturbance in wanted]
    check_shown(shown)
    options.check_run(dtype, "auto", model=model)
    if output is not None:
        make_folder(output)
    loaded, processor = load(model, dtype)
    with working("Choosing questions"):
        items = held_out_questions(per_task, first_video=first_video)
    seconds = None if minutes is None else 60 * minutes
    with progress("Answering", len(items) * len(shown)) as advance:
        tallies = sweep(loaded, processor, chosen, items, reuse, shown, batch, advance, output, seconds)
    found = [tally.to_dict() for tally in tallies if tally.questions]
    if not found:
        raise SettingsError(f"no question was answered within {minutes:g} minutes; give more")
    if as_json:
        print(json.dumps(found))
        return
    _print_reuse(found)


def _print_reuse(found: list[dict[str, Any]]) -> None:
    heads = ("", "method", "computed", "stock", "reuse", "lost", "won", "kept", "cosine", "p1", "lowest")
    rows = []
    for row in found:
        for index, (name, figures) in enumerate(row["methods"].items()):
            title = (
                row["disturbance"] if row["camera"] == "still" else f"{row['camera']}, {row['disturbance']}"
            )
            own, computed = (title, f"{row['computed_share']:.1%}") if index == 0 else ("", "")
            cosine = row["cosine"]
            drift = [f"{cosine[key]:.4f}" for key in ("mean", "first_percentile", "lowest")]
            rows.append(
                [
                    own,
                    name,
                    computed,
                    f"{100 * figures['stock']:.1f}",
                    f"{100 * figures['reuse']:.1f}",
                    str(figures["lost"]),
                    str(figures["won"]),
                    f"{figures['kept_overlap']:.1%}",
                    *(drift if index == 0 else ["", "", ""]),
                ]
            )
    print_table(heads, rows, left=(0, 1), labels=2)
    questions = next(iter(found[0]["methods"].values()))["questions"]
    print_notes(
        "",
        f"{questions} questions; exact match in percent. lost, won: questions answered rightly over the "
        "stock tower alone, with reuse alone. kept: share of the kept tokens that are the same. cosine: of "
        "visual tokens to the stock tower's, mean, first percentile and lowest.",
    )
