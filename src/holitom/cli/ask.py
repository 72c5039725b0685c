"""`holitom ask`: one question about one video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.bundled import (
    BUNDLED_FRAMES,
    BUNDLED_MODEL,
    DEMO_QUESTION,
    DEMO_VIDEO,
    USUAL_FRAMES,
    check_question,
)
from holitom.cli.app import app, note, notes, print_table, quiet_transformers, read_video
from holitom.errors import SettingsError
from holitom.methods.registry import METHODS, method_with

if TYPE_CHECKING:
    from holitom.ask import Answer
    from holitom.methods import Method
    from holitom.video import Video


@app.command()
def ask(
    video: Annotated[
        Path | None, typer.Argument(help="A video file. Without one: the bundled demo.", show_default=False)
    ] = None,
    question: Annotated[str | None, typer.Argument(help="What to ask about it.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint's folder or Hugging Face id. [default: the bundled tiny model]"),
    ] = None,
    method: Annotated[
        str, typer.Option(help=f"How to merge: {', '.join(METHODS)}; 'full' keeps every token.")
    ] = "holitom",
    retain: Annotated[
        float | None,
        typer.Option(
            help="Share of visual tokens to keep, in (0, 1]. [default: the method's; 0.1 as a rule]"
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Similarity above which a token is static (holitom, prunevid). [default: its own]"),
    ] = None,
    inner: Annotated[
        bool | None,
        typer.Option(
            "--inner/--no-inner",
            help="With or without HoliTom's merging inside the language model. [default: with, for holitom]",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames to sample. [default: 16 for the bundled model, else 32]")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    compare: Annotated[bool, typer.Option("--compare", help="Answer with full tokens too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a question about a video file.

    The answer goes to stdout, everything else to stderr.
    """
    if video is not None and question is None:
        raise SettingsError(f"a question is needed: holitom ask {video} 'What happens?'")
    if question is not None:
        check_question(question)
    if max_new_tokens < 1:
        raise SettingsError(f"max-new-tokens must be at least 1, not {max_new_tokens}")
    video, question = video or DEMO_VIDEO, question or DEMO_QUESTION
    name = model or str(BUNDLED_MODEL)
    wanted = frames if frames is not None else USUAL_FRAMES if model else BUNDLED_FRAMES

    settings: dict[str, Any] = {"retain_ratio": retain, "similarity_threshold": threshold}
    settings = {name: value for name, value in settings.items() if value is not None}
    runs = _methods(method, settings, inner, compare)
    clip = read_video(video, wanted)
    answers = _answer(runs, clip, question, name, dtype, device, max_new_tokens)

    if as_json:
        print(json.dumps(_record(video, clip, question, name, answers)))
    elif compare:
        _print_comparison(answers)
    else:
        print(next(iter(answers.values())).text)
        note(str(next(iter(answers.values())).report))


def _methods(name: str, settings: dict[str, Any], inner: bool | None, compare: bool) -> dict[str, Method]:
    """What is to be run, by its name; full tokens first, so that they are the left column."""
    from holitom.methods import Method

    full: dict[str, Method] = {"full": Method(retain_ratio=1)}
    if name == "full":
        if compare:
            raise SettingsError(
                "--compare sets a method beside full tokens; with --method full there is none"
            )
        return full
    chosen = method_with(name, inner, **settings)
    return full | {name: chosen} if compare else {name: chosen}


def _answer(
    runs: dict[str, Method], video: Video, question: str, name: str, dtype: str, device: str, most: int
) -> dict[str, Answer]:
    """Load the model and let every method answer."""
    with notes.status("Loading PyTorch"):
        from holitom.ask import ask, load_model, prompt, unknown_words

    quiet_transformers(name)
    title = "the bundled model" if name == str(BUNDLED_MODEL) else name
    note(f"Loading {title}")
    model, processor = load_model(name, dtype, device)
    if unknown_words(processor, question):
        note("Note: the model does not know some words of the question, so it may not mean much to it")
    inputs = prompt(processor, video, question)
    answers = {}
    with notes.status("Answering") as status:
        if len(runs) > 1:  # the first run pays for memory and caches, so it must not be one that is compared
            ask(model, processor, inputs, list(runs.values())[-1], max_new_tokens=2)
        for label, method in runs.items():
            status.update(f"Answering ({label})")
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


def _print_comparison(answers: dict[str, Answer]) -> None:
    from rich.table import Table

    full, merged = answers["full"], list(answers.values())[-1]
    label = list(answers)[-1]

    def rate(answer: Answer) -> str:
        speed = answer.decode_tokens_per_second
        return "-" if speed is None else f"{speed:.1f}"

    def ratio(before: float | None, after: float | None) -> str:
        return f"{before / after:.2f}x" if before and after else ""

    table = Table("", "full tokens", label, "", box=None, pad_edge=False, header_style="bold")
    table.add_row("answer", full.text, merged.text, "same" if full.text == merged.text else "differs")
    table.add_row(
        "visual tokens",
        f"{full.visual_tokens:,}",
        f"{merged.visual_tokens:,}",
        f"{merged.visual_tokens / full.visual_tokens:.1%}",
    )
    table.add_row(
        "time to first token",
        f"{1000 * full.time_to_first_token:.1f} ms",
        f"{1000 * merged.time_to_first_token:.1f} ms",
        ratio(full.time_to_first_token, merged.time_to_first_token),
    )
    table.add_row(
        "decoding",
        f"{rate(full)} tokens/s",
        f"{rate(merged)} tokens/s",
        ratio(merged.decode_tokens_per_second, full.decode_tokens_per_second),
    )
    table.add_row(
        "KV cache",
        f"{full.report.kv_bytes:,} bytes",
        f"{merged.report.kv_bytes:,} bytes",
        f"{merged.report.kv_bytes / full.report.kv_bytes:.1%}",
    )
    print_table(table)
