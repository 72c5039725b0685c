"""The command line: `holitom ask`, `holitom flops`, `holitom bench`.

Answers and tables go to stdout, progress and errors to stderr. Exit codes: 0 done; 2 the input was bad
(one line says how); 1 anything else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

# Only what --help needs is imported up here: torch and transformers take seconds.
from holitom import __version__
from holitom.errors import HolitomError, SettingsError
from holitom.methods.registry import METHODS, get_method

if TYPE_CHECKING:
    from rich.table import Table

    from holitom.ask import Answer
    from holitom.bench.accuracy import Outcome
    from holitom.flops import Cost, Costs
    from holitom.methods import Method
    from holitom.video import Video

ASSETS = Path(__file__).parent / "assets"
BUNDLED_MODEL = ASSETS / "moving-digits"
DEMO_VIDEO = ASSETS / "demo.mp4"
DEMO_QUESTION = "Which shape flashes?"
BUNDLED_FRAMES, USUAL_FRAMES = 16, 32  # what the bundled model is trained on; what the paper uses

app = typer.Typer(
    name="holitom",
    help="Fast video language models: merge redundant visual tokens, keep the answer.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
bench = typer.Typer(help="Print the figures that the documentation quotes.", rich_markup_mode=None)
app.add_typer(bench, name="bench")

# Markup is off: file names and answers may hold brackets.
notes = Console(stderr=True, highlight=False, markup=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holitom {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
    if question is not None and not question.strip():
        raise SettingsError("the question is empty")
    if max_new_tokens < 1:
        raise SettingsError(f"max-new-tokens must be at least 1, not {max_new_tokens}")
    video, question = video or DEMO_VIDEO, question or DEMO_QUESTION
    name = model or str(BUNDLED_MODEL)
    wanted = frames if frames is not None else USUAL_FRAMES if model else BUNDLED_FRAMES

    settings: dict[str, Any] = {"retain_ratio": retain, "similarity_threshold": threshold}
    settings = {name: value for name, value in settings.items() if value is not None}
    runs = _methods(method, settings, inner, compare)
    clip = _read_video(video, wanted)
    answers = _answer(runs, clip, question, name, dtype, device, max_new_tokens)

    if as_json:
        print(json.dumps(_record(video, clip, question, name, answers)))
    elif compare:
        _print_comparison(answers)
    else:
        print(next(iter(answers.values())).text)
        _note(str(next(iter(answers.values())).report))


def _methods(name: str, settings: dict[str, Any], inner: bool | None, compare: bool) -> dict[str, Method]:
    """What is to be run, by its name; full tokens first, so that they are the left column."""
    from holitom.methods import HoliTom, Method

    full: dict[str, Method] = {"full": Method(retain_ratio=1)}
    if name == "full":
        if compare:
            raise SettingsError(
                "--compare sets a method beside full tokens; with --method full there is none"
            )
        return full
    if name == "holitom" and inner is False:
        settings = {**settings, "inner_drop": None}
    chosen = get_method(name, **settings)
    if name != "holitom" and inner:
        chosen = chosen.with_inner(HoliTom())
    return full | {name: chosen} if compare else {name: chosen}


def _read_video(path: Path, frames: int) -> Video:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from holitom.video import load_video

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(f"Decoding {path.name}", total=None)
        video = load_video(path, frames, lambda done, of: progress.update(task, completed=done, total=of))
    of = video.metadata.total_num_frames
    height, width = video.frames.shape[1:3]
    _note(f"{path.name}: {len(video.frames)} of {of} frames, {width} x {height}")
    return video


def _answer(
    runs: dict[str, Method], video: Video, question: str, name: str, dtype: str, device: str, most: int
) -> dict[str, Answer]:
    """Load the model and let every method answer."""
    with notes.status("Loading PyTorch"):
        from holitom.ask import ask, load_model, prompt, unknown_words

    _quiet_transformers(name)
    title = "the bundled model" if name == str(BUNDLED_MODEL) else name
    _note(f"Loading {title}")
    model, processor = load_model(name, dtype, device)
    if unknown_words(processor, question):
        _note("Note: the model does not know some words of the question, so it may not mean much to it")
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


def _print_table(table: Table) -> None:
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    width = None if sys.stdout.isatty() else 120  # rich takes 80 for a file, too few for eleven columns
    Console(highlight=False, markup=False, width=width).print(table)


def _note(text: str) -> None:
    notes.print(text, style="dim", soft_wrap=True)


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
    _print_table(table)


@app.command()
def flops(
    model: Annotated[
        str, typer.Option(help="Published shapes by name, a checkpoint's folder, a config file or a hub id.")
    ] = "llava-onevision-qwen2-7b",
    frames: Annotated[int, typer.Option(help="Frames of the video.")] = USUAL_FRAMES,
    retain: Annotated[str, typer.Option(help="Shares of visual tokens to keep.")] = "0.25,0.2,0.15,0.1",
    method: Annotated[str, typer.Option(help="all, or some of: fastv,pdrop,holitom-outer,holitom.")] = "all",
    text_tokens: Annotated[int, typer.Option(help="Tokens of the prompt beside the video's.")] = 32,
    dtype: Annotated[str, typer.Option(help="Of the KV cache: float32, bfloat16 or float16.")] = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a prompt with one video costs: operations and KV cache, by method and budget.

    Counted on the shapes of the real model class; no weights are read.
    """
    ratios = _ratios(retain)
    with notes.status("Loading PyTorch") as status:
        from holitom.flops import METHODS, costs

        _quiet_transformers(model)
        status.update("Counting")
        methods = METHODS if method == "all" else tuple(method.split(","))
        counted = costs(model, frames, ratios, methods, text_tokens, dtype)
    if as_json:
        print(json.dumps(counted.to_dict()))
    else:
        _print_costs(counted)


def _print_costs(costs: Costs) -> None:
    from rich.table import Table

    full = costs.rows[0]
    unit, scale = ("TFLOPs", 1e12) if full.prefill.operations >= 1e12 else ("GFLOPs", 1e9)

    def cells(row: Cost) -> list[str]:
        first, *inner = row.plan.levels()
        return [
            ", ".join([f"{first.tokens:,}", *(f"{level.tokens:,} @{level.start}" for level in inner)]),
            f"{row.paper / scale:.1f}",
            f"{row.paper / full.paper:.1%}",
            f"{costs.vision_operations(row) / scale:.1f}",
            f"{row.prefill.operations / scale:.1f}",
            f"{row.prefill.operations / full.prefill.operations:.1%}",
            f"{row.prefill.cache_bytes / 1e6:.1f}",
        ]

    counts = [f"{name}\n{unit}" for name in ("paper", "vision", "prefill")]
    heads = ("visual tokens", counts[0], "%", *counts[1:], "%", "KV MB")
    table = Table("", *heads, box=None, pad_edge=False, header_style="bold")
    for row in costs.rows:
        table.add_row(row.plan.label, *cells(row))
    shown = costs.vision
    print(
        f"{costs.model}: {shown.frames} frames x {shown.tokens} visual tokens + {shown.separators} for "
        f"newlines, {costs.text_tokens} text tokens; KV cache in {costs.dtype}\n"
    )
    _print_table(table)
    print(
        "\nn @k: n tokens from layer k on. paper: 4nd^2 + 2n^2d + 2ndm a layer, visual tokens alone.\n"
        "vision, prefill: counted by torch on the model's own class, newlines and text included; matrix\n"
        "products and convolutions, not softmax, norms or elementwise work, nor merging itself (reading\n"
        "importance is in vision). Other methods before the language model cost what HoliTom w/o M does."
    )


@bench.command("overhead")
def bench_overhead(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What merging costs: tensor operations, device synchronisations, memory, time."""
    from holitom.bench.imports import import_seconds
    from holitom.bench.overhead import overhead, print_overhead

    with notes.status("Measuring"):
        figures = overhead()
        beyond_torch = {"name": "import holitom, beyond torch", "value": 1e3 * import_seconds()}
        figures["rows"].append({**beyond_torch, "unit": "ms", "limit": 50})
    if as_json:
        print(json.dumps(figures))
    else:
        print_overhead(figures)


@bench.command("accuracy")
def bench_accuracy(
    model: Annotated[
        str | None, typer.Option(help="A checkpoint's folder. [default: the bundled model]")
    ] = None,
    retain: Annotated[str, typer.Option(help="Shares of visual tokens to keep.")] = "0.25,0.2,0.15,0.1",
    per_task: Annotated[int, typer.Option(help="Held-out questions of each of the seven tasks.")] = 150,
    batch: Annotated[int, typer.Option(help="Questions answered at a time.")] = 14,
    output: Annotated[Path, typer.Option(help="Where answers are kept; a killed run goes on there.")] = Path(
        "runs/accuracy"
    ),
) -> None:
    """MovingDigits-QA: exact match by task, with full tokens and with HoliTom at every budget."""
    from rich.progress import Progress

    if per_task < 1 or batch < 1:
        raise SettingsError(f"per-task and batch must be at least 1, not {per_task} and {batch}")
    settings = _budgets(retain)
    name = model or str(BUNDLED_MODEL)
    _quiet_transformers(name)

    from holitom.ask import load_model
    from holitom.bench.accuracy import Setting, evaluate, held_out_questions

    loaded, processor = load_model(name)
    items = held_out_questions(per_task)
    outcomes = []
    with Progress(console=notes, transient=True) as progress:
        for label, method in settings.items():
            task = progress.add_task(label, total=len(items))
            outcomes.append(
                evaluate(
                    loaded,
                    processor,
                    Setting(label, method),
                    items,
                    output,
                    batch,
                    lambda done, task=task: progress.advance(task, done),  # type: ignore[misc]
                )
            )
    _print_accuracy(outcomes)


def _budgets(retain: str) -> dict[str, Method | None]:
    """Full tokens, then HoliTom with and without its inner stage at every budget of `0.25,0.1`."""
    from holitom.methods import HoliTom

    settings: dict[str, Method | None] = {"full tokens": None}
    for ratio in _ratios(retain):
        settings[f"HoliTom w/o M {ratio:.0%}"] = HoliTom(retain_ratio=ratio, inner_drop=None)
        settings[f"HoliTom {ratio:.0%}"] = HoliTom(retain_ratio=ratio)
    return settings


def _ratios(retain: str) -> list[float]:
    try:
        return [float(part) for part in retain.split(",")]
    except ValueError:
        raise SettingsError(f"retain must be numbers such as 0.25,0.1, not {retain!r}") from None


def _print_accuracy(outcomes: list[Outcome]) -> None:
    from rich.table import Table

    full = outcomes[0].average
    tasks = list(dict.fromkeys(outcomes[0].tasks))
    table = Table("", "tokens", *tasks, "average", "of full", box=None, pad_edge=False, header_style="bold")
    for outcome in outcomes:
        by_task = [f"{100 * outcome.of_task(task):.1f}" for task in tasks]
        share = f"{outcome.average / full:.1%}" if full else "-"
        average = f"{100 * outcome.average:.1f}"
        table.add_row(outcome.setting.label, f"{outcome.tokens.mean():.0f}", *by_task, average, share)
    _print_table(table)


def _quiet_transformers(model: str) -> None:
    """Its warnings are for programmers, and its bars are only of use where weights are downloaded."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    if Path(model).is_dir():
        logging.disable_progress_bar()


def main(arguments: list[str] | None = None) -> int:
    """The `holitom` command: run it, and turn errors into one line on stderr and an exit code.

    Only what nobody foresaw leaves a traceback (and Python's exit code 1).
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return int(app(given or ["--help"], standalone_mode=False) or 0)
    except (HolitomError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        code = 2
    except ImportError as error:  # a missing extra; its message says which
        message, code = str(error), 1
    except (KeyboardInterrupt, typer.Abort):
        message, code = "interrupted", 130
    print(f"holitom: error: {' '.join(message.split())}", file=sys.stderr)
    return code
