"""Options and arguments that several commands share, and checks of them before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from holitom.bundled import BUNDLED_MODELS, DEMO_QUESTION, DEMO_VIDEO, check_question, usual_frames
from holitom.cli.app import working
from holitom.errors import SettingsError, VideoError
from holitom.methods.registry import METHODS

if TYPE_CHECKING:
    from holitom.methods.choose import Choice
    from holitom.video import Sampling

WRITTEN = "name, name[setting=value,...] or name+inner (with HoliTom's inner merging)"

VideoFile = Annotated[
    str | None, typer.Argument(help="A video file. Without one: the bundled demo.", show_default=False)
]
Question = Annotated[str | None, typer.Argument(help="What to ask about it.", show_default=False)]
Questions = Annotated[
    Path,
    typer.Argument(
        help='A JSONL file: {"video": "a.mp4", "question": "What happens?"} on each line, and "answer" '
        "where the right one is known."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint's folder, a Hugging Face id, or a bundled tiny model: "
        f"{', '.join(BUNDLED_MODELS)}. [default: the first bundled one]"
    ),
]
MethodName = Annotated[
    str,
    typer.Option(
        help=f"How to merge: {', '.join(METHODS)}; full keeps every token. Written as {WRITTEN}. "
        "`holitom methods` says what each does."
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        help=f"all, or some with commas between, each as {WRITTEN}; holitom-outer is HoliTom without "
        "inner merging."
    ),
]
Retain = Annotated[
    float | None,
    typer.Option(
        help="Share of the visual tokens to send, in (0, 1]: an upper budget, merging over time may send "
        "fewer. [default: the method's; 0.1 as a rule]"
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Similarity above which a token is static (holitom, prunevid). [default: its own]"),
]
Inner = Annotated[
    bool | None,
    typer.Option(
        "--inner/--no-inner",
        help="With HoliTom's merging inside the language model, or without the method's own. "
        "[default: as the method comes]",
    ),
]
ReuseTower = Annotated[
    bool,
    typer.Option(
        "--reuse",
        help="Compute in the vision tower only what differs from a reference frame. `holitom drift` shows "
        "what that changes.",
    ),
]
TowerBatch = Annotated[
    int | None,
    typer.Option(
        help="Frames that go through the vision tower at a time, to bound its memory. [default: 32 where ask "
        "encodes while it reads, else all]",
        show_default=False,
    ),
]
Frames = Annotated[
    int | None, typer.Option(help="Frames to sample. [default: 16 for a bundled model, else 32]")
]
Fps = Annotated[
    float | None,
    typer.Option(help="Frames to sample a second, at most 768 in all, in the place of --frames."),
]
FramesBy = Annotated[
    str,
    typer.Option(
        help="time: frames are evenly spread. change: of four times as many, those that show the most."
    ),
]
Start = Annotated[float | None, typer.Option(help="Second of the video to begin at. [default: 0]")]
End = Annotated[float | None, typer.Option(help="Second of the video to end at. [default: its end]")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Dtype = Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def answers_file(usual: str) -> Any:
    """The option of the file of answers; `usual` is its default, for the help."""
    return typer.Option(
        "--output",
        "-o",
        help="File of the answers, one JSON object a line; a run that was stopped goes on there. "
        f"[default: {usual}]",
    )


def method_asked(
    text: str,
    retain: float | None = None,
    threshold: float | None = None,
    inner: bool | None = None,
    reuse: bool = False,
    tower_batch: int | None = None,
) -> Choice:
    """Read the method of `--method`, `--retain`, `--threshold`, `--inner/--no-inner`, `--reuse` and
    `--tower-batch`."""
    from holitom.methods.choose import read_method

    settings: dict[str, Any] = {"retain_ratio": retain, "similarity_threshold": threshold}
    settings |= {"reuse": reuse or None, "tower_batch": tower_batch}
    return read_method(text, {name: value for name, value in settings.items() if value is not None}, inner)


def sampling_asked(
    frames: int | None,
    model: str | None,
    frames_by: str = "time",
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Sampling:
    """Read the sampling of `--frames`, `--frames-by`, `--fps`, `--start` and `--end`."""
    from holitom.video import Sampling

    if fps is None:
        frames = frames_asked(frames, model)
    return Sampling(frames, fps, start=start, end=end, frames_by=cast("Any", frames_by))


def frames_asked(frames: int | None, model: str | None) -> int:
    """The number of `--frames`, or its default for `--model`.

    Raises:
        SettingsError: it is below 1.
    """
    check_least("frames", frames)
    return usual_frames(model) if frames is None else frames


def check_least(option: str, value: int | None, least: int = 1) -> None:
    """Raise a `SettingsError` for an option whose value is below `least`."""
    if value is not None and value < least:
        raise SettingsError(f"{option} must be at least {least}, not {value}")


def check_asked(video: str | None, question: str | None, command: str, needed: bool) -> None:
    """Raise an error for arguments that are not a video and a question.

    Args:
        video: the first argument.
        question: the second argument.
        command: the command's name, for examples in messages.
        needed: whether a video must come with a question.
    """
    if question is not None:
        check_question(question)
    if video is None:
        return
    example = "'What happens?'"
    if re.match(r"[a-zA-Z][\w+.-]*://", video):
        raise VideoError(f"{video} is a URL; download the video and give the file")
    if Path(video).exists():
        if needed and question is None:
            raise SettingsError(f"a question is needed: holitom {command} {video} {example}")
        return
    if question is not None and Path(question).is_file():
        raise VideoError(
            f"{video}: no such file; the video comes first: holitom {command} {question} {video!r}"
        )
    if question is None and (" " in video.strip() or video.rstrip().endswith("?")):
        raise VideoError(
            f"{video!r} is no file; if it is the question, name the video first: "
            f"holitom {command} VIDEO {video!r}"
        )
    raise VideoError(f"{video}: no such file")


def file_and_question(video: str | None, question: str | None, command: str) -> tuple[Path, str]:
    """Check the arguments of `command`, a video and a question about it; the bundled ones without
    arguments."""
    check_asked(video, question, command, needed=True)
    if video is None or question is None:
        return DEMO_VIDEO, DEMO_QUESTION
    return Path(video), question


def check_run(dtype: str, device: str, max_new_tokens: int = 1, model: str | None = None) -> None:
    """Raise an error for settings that cannot run, before a video or a model is read."""
    check_least("max-new-tokens", max_new_tokens)
    with working("Loading PyTorch"):
        from holitom.ask import device_named, dtype_named
        from holitom.hub import located

    if dtype != "auto":
        dtype_named(dtype)
    device_named(device)
    if model is not None:
        with working(f"Looking for {model}"):
            located(model)
