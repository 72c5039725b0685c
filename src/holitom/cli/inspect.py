"""`holitom inspect`: what became of each token, as a page, a picture or a clip."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from holitom.bundled import ABOUT_BUNDLED, BUNDLED_MODEL, DEMO_QUESTION, DEMO_VIDEO
from holitom.cli.app import app, note, quiet_transformers, read_video, working
from holitom.cli.options import (
    Device,
    Dtype,
    End,
    Fps,
    Frames,
    Inner,
    MaxNewTokens,
    MethodName,
    Model,
    Retain,
    ReuseTower,
    Start,
    Threshold,
    VideoFile,
    check_asked,
    check_run,
    method_asked,
    sampling_asked,
)
from holitom.errors import OutputError

if TYPE_CHECKING:
    from holitom.inspect import Inspection

KINDS = (".html", ".png", ".pdf", ".svg", ".mp4")


@app.command()
def inspect(
    video: VideoFile = None,
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
    model: Model = None,
    method: MethodName = "holitom",
    retain: Retain = None,
    threshold: Threshold = None,
    inner: Inner = None,
    reuse: ReuseTower = False,
    frames: Frames = None,
    fps: Fps = None,
    start: Start = None,
    end: End = None,
    max_new_tokens: MaxNewTokens = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
    show: Annotated[bool, typer.Option("--open", help="Open the file when it is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Show what became of each visual token of a video.

    The file's name (with --json: the figures, its name among them) goes to stdout, everything else to stderr.
    """
    check_asked(video, question, "inspect", needed=False)
    file, question = (DEMO_VIDEO, DEMO_QUESTION) if video is None else (Path(video), question)
    output = output or Path(f"{file.stem}.inspect.html")
    sampling = sampling_asked(frames, fps, start, end, model)
    check_run(dtype, device, max_new_tokens, model)
    chosen = method_asked(method, retain, threshold, inner, reuse).make()
    check_output(output, file)
    clip = read_video(file, sampling)

    name = model or str(BUNDLED_MODEL)
    with working("Loading PyTorch"):
        from holitom.ask import load_model
        from holitom.inspect import inspect_video

    quiet_transformers(name)
    title = "the bundled model" if model is None else Path(name).name
    note(f"Loading {title}")
    loaded, processor = load_model(name, dtype, device)
    begun = perf_counter()
    with working("Merging"):
        inspection = inspect_video(
            loaded,
            processor,
            clip,
            chosen,
            question,
            title=file.name,
            name=title,
            max_new_tokens=max_new_tokens,
            banner=ABOUT_BUNDLED if model is None else None,
        )
    merged = perf_counter()
    with working("Drawing"):
        write(inspection, output)
    drawn = perf_counter()
    if inspection.answer is not None:
        note(f"Answer: {inspection.answer}")
    note(
        f"{inspection.headline}; "
        f"merged in {merged - begun:.1f} s, drawn in {drawn - merged:.1f} s, "
        f"{output.stat().st_size / 1e6:.1f} MB"
    )
    if inspection.hint is not None:
        note(inspection.hint)
    print(json.dumps({"file": str(output), **inspection.to_dict()}) if as_json else output)
    if show and not webbrowser.open(output.resolve().as_uri()):
        note(f"No browser could be opened; open {output} yourself")


def check_output(path: Path, video: Path) -> None:
    """Before anything is computed: raise an `OutputError` unless a file of a known kind can be written."""
    if path.exists() and video.exists() and path.samefile(video):
        raise OutputError(f"{path}: that is the video itself; name another file to write")
    if path.suffix.lower() not in KINDS:
        raise OutputError(f"{path}: output must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if path.suffix.lower() in (".png", ".pdf", ".svg"):
        import holitom.inspect.draw_png  # noqa: F401  (an ImportError says which extra is missing)
    new = not path.exists()
    try:
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def write(inspection: Inspection, path: Path) -> None:
    """Draw into `path`, as its extension says."""
    kind = path.suffix.lower()
    try:
        if kind == ".html":
            from holitom.inspect import page

            path.write_text(page(inspection), encoding="utf-8")
        elif kind == ".mp4":
            from holitom.inspect import write_clip

            write_clip(inspection, path)
        else:
            from holitom.inspect import token_map

            token_map(inspection).savefig(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
