"""`holitom ask`: one question about one video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.bundled import (
    BUNDLED_MODEL,
    DEMO_QUESTION,
    DEMO_VIDEO,
)
from holitom.cli.app import app, note, quiet_transformers, read_video, working
from holitom.cli.options import (
    Device,
    Dtype,
    End,
    Fps,
    Frames,
    Inner,
    Json,
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
from holitom.cli.tables import print_answers, print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.ask import Answer
    from holitom.methods import Method
    from holitom.methods.choose import Choice
    from holitom.video import Video


@app.command()
def ask(
    video: VideoFile = None,
    question: Annotated[str | None, typer.Argument(help="What to ask about it.", show_default=False)] = None,
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
    compare: Annotated[bool, typer.Option("--compare", help="Answer with full tokens too.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a question about a video file.

    The answer goes to stdout, everything else to stderr.
    """
    check_asked(video, question, "ask", needed=True)
    sampling = sampling_asked(frames, fps, start, end, model)
    check_run(dtype, device, max_new_tokens, model)
    choice = method_asked(method, retain, threshold, inner, reuse)
    runs = _methods(choice, compare)
    file, asked = (
        (DEMO_VIDEO, DEMO_QUESTION) if video is None or question is None else (Path(video), question)
    )
    name = model or str(BUNDLED_MODEL)
    clip = read_video(file, sampling)
    answers = _answer(runs, clip, asked, name, dtype, device, max_new_tokens)

    if as_json:
        print(json.dumps(_record(file, clip, asked, name, answers)))
    elif compare:
        _print_comparison(asked, answers, choice.label)
    else:
        print(next(iter(answers.values())).text)
        note(str(next(iter(answers.values())).report))


def _methods(choice: Choice, compare: bool) -> dict[str, Method]:
    """What is to be run, by its name; full tokens first, so that they are the left column."""
    from holitom.methods import Method
    from holitom.methods.choose import FULL

    if choice.name == FULL and compare:
        raise SettingsError("--compare sets a method beside full tokens; with --method full there is none")
    full: dict[str, Method] = {FULL: Method(retain_ratio=1)} if compare else {}
    return full | {choice.text: choice.make()}


def _answer(
    runs: dict[str, Method], video: Video, question: str, name: str, dtype: str, device: str, most: int
) -> dict[str, Answer]:
    """Load the model and let every method answer."""
    with working("Loading PyTorch"):
        from holitom.ask import ask, load_model, unknown_words
        from holitom.prompts import prompt

    quiet_transformers(name)
    title = "the bundled model" if name == str(BUNDLED_MODEL) else name
    note(f"Loading {title}")
    model, processor = load_model(name, dtype, device)
    if unknown_words(processor, question):
        note("Note: the model does not know some words of the question, so it may not mean much to it")
    inputs = prompt(processor, video, question)
    answers = {}
    with working("Answering") as say:
        if len(runs) > 1:  # the first run pays for memory and caches, so it must not be one that is compared
            ask(model, processor, inputs, list(runs.values())[-1], max_new_tokens=2)
        for label, method in runs.items():
            say(f"Answering ({label})")
            answers[label] = ask(model, processor, inputs, method, most)
    return answers


def _record(path: Path, video: Video, question: str, name: str, answers: dict[str, Answer]) -> dict[str, Any]:
    """The JSON object: what was asked, and one entry for every run."""
    return {
        "video": str(path),
        "frames": len(video.frames),
        "frame_indices": list(video.metadata.frames_indices or []),
        "question": question,
        "model": name,
        "runs": {label: answer.to_dict() for label, answer in answers.items()},
    }


def _print_comparison(question: str, answers: dict[str, Answer], label: str) -> None:
    full, merged = answers.values()

    def rate(answer: Answer) -> str:
        speed = answer.decode_tokens_per_second
        return "-" if speed is None else f"{speed:.1f} tokens/s"

    def ratio(before: float | None, after: float | None) -> str:
        return f"{before / after:.2f}x" if before and after else ""

    beside = f", {merged.separators} newlines or other separators apart" if merged.separators else ""
    print_answers(question, [("full tokens", full.text), (label, merged.text)])
    print()
    sides = (full, merged)
    reuse = merged.report.reuse
    tower: list[tuple[str, ...]] = []
    if reuse is not None:
        tower = [("vision tower computed", "100.0%", f"{reuse.computed_share:.1%}", "")]
    inside: list[tuple[str, ...]] = []
    if merged.last_layer is not None:
        left = (full.visual_tokens, merged.remaining_tokens)
        share = f"{merged.remaining_tokens / full.visual_tokens:.1%}"
        inside = [(f"from layer {merged.last_layer} on", *(f"{count:,}" for count in left), share)]
    print_table(
        ("", "full tokens", label, ""),
        [
            (
                "visual tokens",
                *(f"{side.visual_tokens:,}" for side in sides),
                f"{merged.visual_tokens / full.visual_tokens:.1%}",
            ),
            *inside,
            (
                "time to first token",
                *(f"{1000 * side.time_to_first_token:.1f} ms" for side in sides),
                ratio(full.time_to_first_token, merged.time_to_first_token),
            ),
            *tower,
            (
                "decoding",
                *map(rate, sides),
                ratio(merged.decode_tokens_per_second, full.decode_tokens_per_second),
            ),
            (
                "KV cache",
                *(f"{side.report.kv_bytes / 1e6:.2f} MB" for side in sides),
                f"{merged.report.kv_bytes / full.report.kv_bytes:.1%}",
            ),
        ],
    )
    print()
    print_notes(
        f"Visual tokens: those that entered the language model{beside}. Time to first token: vision tower, "
        "merging and prefill, once each; reading the video is not in it. x: times as fast as full tokens."
    )
