"""`holitom inspect`: a drawing of which tokens are kept, merged and dropped, as a page, picture or clip."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.bundled import ABOUT_BUNDLED, DEMO_QUESTION, DEMO_VIDEO, is_bundled, short_title
from holitom.cli import options
from holitom.cli.app import app, check_video, load, note, read_video, working
from holitom.errors import OutputError, SettingsError
from holitom.methods.registry import METHODS

if TYPE_CHECKING:
    from holitom.inspect import Column, Inspection
    from holitom.methods import Method
    from holitom.methods.choose import Choice

KINDS = (".html", ".png", ".pdf", ".svg", ".mp4")


@app.command()
def inspect(
    video: options.VideoFile = None,
    question: Annotated[
        str | None,
        typer.Argument(help="Also show what is left for it inside the language model.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=f"Where to: a page, a picture or a clip ({', '.join(KINDS)}). [default: VIDEO.inspect.html]",
        ),
    ] = None,
    model: options.Model = None,
    method: options.MethodName = "holitom",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Two to four methods with commas between, each written as for --method, side by side on the "
            "same frames.",
            show_default=False,
        ),
    ] = None,
    retain: options.Retain = None,
    threshold: options.Threshold = None,
    inner: options.Inner = None,
    reuse: options.ReuseTower = False,
    tower_batch: options.TowerBatch = None,
    frames: options.Frames = None,
    frames_by: options.FramesBy = "time",
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    max_new_tokens: options.MaxNewTokens = 64,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    show: Annotated[bool, typer.Option("--open", help="Open the file when it is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Show what became of each visual token of a video.

    The file's name (with --json: the figures, its name among them) goes to stdout, everything else to stderr.
    """
    options.check_asked(video, question, "inspect", needed=False)
    file, question = (DEMO_VIDEO, DEMO_QUESTION) if video is None else (Path(video), question)
    output = output or Path(f"{file.stem}.inspect.html")
    sampling = options.sampling_asked(frames, model, frames_by, fps, start, end)
    options.check_run(dtype, device, max_new_tokens, model)
    chosen = _chosen(method, methods, retain, threshold, inner, reuse, tower_batch)
    check_output(output, file)
    if methods is not None and output.suffix.lower() == ".mp4":
        raise OutputError(f"{output}: methods side by side are a page or a picture; a clip shows one method")
    check_video(file)
    loaded, processor = load(model, dtype, device)
    from holitom.inspect import inspect_video
    from holitom.inspect.pictures import Pictured
    from holitom.video.fitting import fit_of

    fit = Pictured(fit_of(processor))
    clip = read_video(file, sampling, fit)
    seen = partial(
        inspect_video,
        *(loaded, processor, clip),
        question=question,
        title=file.name,
        name=short_title(model),
        max_new_tokens=max_new_tokens,
        banner=ABOUT_BUNDLED if is_bundled(model) else None,
        pictures=fit.pictures(clip),
    )
    begun = perf_counter()
    if methods is None:
        with working("Merging"):
            one = seen(chosen[0].make())
        merged = perf_counter()
        with working("Drawing"):
            write(one, output)
        for line in _said(one):
            note(line)
        figures: dict[str, Any] = one.to_dict()
    else:
        columns = []
        for choice in chosen:
            with working(f"Merging ({choice.text})"):
                columns.append(_column(choice, seen))
        merged = perf_counter()
        with working("Drawing"):
            write_comparison(columns, output)
        for column in columns:
            told = column.refused if column.inspection is None else "; ".join(_said(column.inspection))
            note(f"{column.name}: {told}")
        figures = {"methods": {column.name: _figures(column) for column in columns}}
    drawn = perf_counter()
    size = output.stat().st_size / 1e6
    note(f"merged in {merged - begun:.1f} s, drawn in {drawn - merged:.1f} s, {size:.1f} MB")
    print(json.dumps({"file": str(output), **figures}) if as_json else output)
    if show and not webbrowser.open(output.resolve().as_uri()):
        note(f"No browser could be opened; open {output} yourself")


def _chosen(
    method: str,
    methods: str | None,
    retain: float | None,
    threshold: float | None,
    inner: bool | None,
    reuse: bool,
    tower_batch: int | None,
) -> list[Choice]:
    """Read the one method of `--method`, or the methods to compare of `--methods`."""
    if methods is None:
        return [options.method_asked(method, retain, threshold, inner, reuse, tower_batch)]
    from holitom.methods.choose import read_methods

    if method != "holitom" or threshold is not None:
        raise SettingsError(
            "--methods goes without --method and --threshold; write a setting behind its method, as in "
            "holitom[similarity_threshold=0.7],evs"
        )
    names = [choice.text for choice in read_methods(methods)]
    if not 2 <= len(names) <= 4:
        raise SettingsError(f"--methods takes two to four different methods, not {len(names)}: {methods!r}")
    return [options.method_asked(name, retain, None, inner, reuse, tower_batch) for name in names]


def _column(choice: Choice, seen: Callable[[Method], Inspection]) -> Column:
    """Run one method of a comparison; a refusal on this video becomes the column's text."""
    from holitom.inspect import Column

    does = METHODS[choice.name].does if choice.name in METHODS else ""
    try:
        return Column(choice.text, does, seen(choice.make()))
    except SettingsError as error:
        return Column(choice.text, does, refused=str(error))


def _said(inspection: Inspection) -> list[str]:
    """Lines about an inspection for stderr."""
    lines = [] if inspection.answer is None else [f"Answer: {inspection.answer}"]
    return [*lines, inspection.headline, *([] if inspection.hint is None else [inspection.hint])]


def _figures(column: Column) -> dict[str, Any]:
    return {"refused": column.refused} if column.inspection is None else column.inspection.to_dict()


def check_output(path: Path, video: Path) -> None:
    """Raise an `OutputError` unless a file of a known kind can be written, before anything is computed."""
    if path.exists() and video.exists() and path.samefile(video):
        raise OutputError(f"{path}: that is the video itself; name another file to write")
    if path.suffix.lower() not in KINDS:
        raise OutputError(f"{path}: output must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if path.suffix.lower() in (".png", ".pdf", ".svg"):
        import holitom.inspect.draw_png  # noqa: F401  (an ImportError says which extra is missing)
    new = not path.exists()
    with _writing(path):
        with path.open("ab"):
            pass
        if new:
            path.unlink()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `OutputError` for `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def write_comparison(columns: list[Column], path: Path) -> None:
    """Draw methods side by side into `path`, by its extension."""
    from holitom.inspect import comparison_map, comparison_page

    with _writing(path):
        if path.suffix.lower() == ".html":
            path.write_text(comparison_page(columns), encoding="utf-8")
        else:
            comparison_map(columns).savefig(path)


def write(inspection: Inspection, path: Path) -> None:
    """Draw one method into `path`, by its extension."""
    from holitom import inspect

    kind = path.suffix.lower()
    with _writing(path):
        if kind == ".html":
            path.write_text(inspect.page(inspection), encoding="utf-8")
        elif kind == ".mp4":
            inspect.write_clip(inspection, path)
        else:
            inspect.token_map(inspection).savefig(path)
