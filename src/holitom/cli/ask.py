"""`holitom ask`: answer one question about one video."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from holitom.bundled import checkpoint
from holitom.cli import options
from holitom.cli.app import app, check_video, load, note, read_video, tell_frames, working
from holitom.cli.tables import print_answers, print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.ask import Answer, Timed
    from holitom.methods import Method
    from holitom.methods.choose import Choice
    from holitom.video import Sampling, Video
    from holitom.video.opening import Opened

ROUNDS = 3
"""Number of timed runs of each column with `--compare`, after one untimed run of each."""


class Request(NamedTuple):
    """A question about a video file.

    Attributes:
        file: the video file.
        sampling: the frames to sample.
        question: the question.
        tokens: longest answer, in tokens.
    """

    file: Path
    sampling: Sampling
    question: str
    tokens: int


@app.command()
def ask(
    video: options.VideoFile = None,
    question: options.Question = None,
    model: options.Model = None,
    method: options.MethodName = "holitom",
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
    compare: Annotated[bool, typer.Option("--compare", help="Answer with full tokens too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Ask a question about a video file.

    The answer goes to stdout, everything else to stderr.
    """
    file, asked = options.file_and_question(video, question, "ask")
    sampling = options.sampling_asked(frames, model, frames_by, fps, start, end)
    options.check_run(dtype, device, max_new_tokens, model)
    choice = options.method_asked(method, retain, threshold, inner, reuse, tower_batch)
    runs = _methods(choice, compare)
    opened = check_video(file)
    request = Request(file, sampling, asked, max_new_tokens)
    loaded = _loaded(asked, model, dtype, device)
    rounds: dict[str, list[Timed]] = {}
    if compare:
        rounds, clip = _in_rounds(runs, request, *loaded)
        answers = {label: timed[-1].answer for label, timed in rounds.items()}
    else:
        answers, clip = _once(runs, request, opened, *loaded)

    if as_json:
        record = _record(file, clip, asked, checkpoint(model), answers)
        if compare:
            record["rounds"] = {label: [run.to_dict() for run in timed] for label, timed in rounds.items()}
        print(json.dumps(record))
    elif compare:
        _print_comparison(asked, rounds, f"{choice.label}, reuse" if reuse else choice.label)
    else:
        (answer,) = answers.values()
        print(answer.text)
        note(str(answer.report))


def _methods(choice: Choice, compare: bool) -> dict[str, Method]:
    """The methods to run, by name; full tokens first, so that they are the left column."""
    from holitom.methods import Method
    from holitom.methods.choose import FULL

    if choice.name == FULL and compare:
        raise SettingsError("--compare sets a method beside full tokens; with --method full there is none")
    full: dict[str, Method] = {FULL: Method(retain_ratio=1)} if compare else {}
    return full | {choice.text: choice.make()}


def _loaded(question: str, name: str | None, dtype: str, device: str) -> tuple[Any, Any]:
    """Load the model and the processor, and tell of words of the question that are unknown to them and of a
    precision that is slow here."""
    with working("Loading PyTorch"):
        from holitom.ask import slow_precision, unknown_words

    model, processor = load(name, dtype, device)
    if unknown_words(processor, question):
        note("Note: the model does not know some words of the question, so it may not mean much to it")
    if slow_precision(model):
        precision = str(model.dtype).removeprefix("torch.")
        note(
            f"Note: this processor computes slowly in {precision}; --dtype float32 is faster and takes twice "
            "the memory for weights"
        )
    return model, processor


def _once(
    runs: dict[str, Method], request: Request, opened: Opened, model: Any, processor: Any
) -> tuple[dict[str, Answer], Video]:
    """Answer once with the one method; frames are encoded while others are read."""
    from holitom.flow import ask_file

    ((label, method),) = runs.items()
    file, sampling, question, tokens = request
    with working(f"Answering ({label})") as say:

        def tell(done: int, of: int) -> None:
            if done * 100 // of != (done - 1) * 100 // of:
                say(f"Answering ({label}): {done * 100 // of}% of {file.name} decoded")

        answer, clip = ask_file(model, processor, opened, question, method, sampling, tokens, progress=tell)
    tell_frames(file, clip)
    return {label: answer}, clip


def _in_rounds(
    runs: dict[str, Method], request: Request, model: Any, processor: Any
) -> tuple[dict[str, list[Timed]], Video]:
    """Answer with every method; read, preprocess and answer in turn, so that each can be timed."""
    from holitom.ask import Timed, ask
    from holitom.prompts import prompt
    from holitom.video import load_sampled
    from holitom.video.fitting import fit_of

    file, sampling, question, most = request
    fit = fit_of(processor)
    clip = read_video(file, sampling, fit)

    def run(method: Method, tokens: int) -> Timed:
        began = time.perf_counter()
        video = load_sampled(file, sampling, fit=fit)
        read = time.perf_counter()
        inputs = prompt(processor, video, question)
        made = time.perf_counter()
        return Timed(read - began, made - read, ask(model, processor, inputs, method, tokens))

    found: dict[str, list[Timed]] = {label: [] for label in runs}
    with working("Answering") as say:
        for method in runs.values():  # a first run is slower, since it allocates memory, so it is not timed
            run(method, 2)
        for number in range(ROUNDS):
            order = list(runs) if number % 2 == 0 else list(runs)[::-1]
            for label in order:
                say(f"Answering ({label}, round {number + 1} of {ROUNDS})")
                found[label].append(run(runs[label], most))
    return found, clip


def _record(path: Path, video: Video, question: str, name: str, answers: dict[str, Answer]) -> dict[str, Any]:
    """The JSON object: the question, and one entry for every run."""
    return {
        "video": str(path),
        "frames": len(video.frames),
        "frame_indices": list(video.metadata.frames_indices or []),
        "question": question,
        "model": name,
        "runs": {label: answer.to_dict() for label, answer in answers.items()},
    }


def _print_comparison(question: str, rounds: dict[str, list[Timed]], label: str) -> None:
    columns = tuple(rounds.values())
    full, merged = (timed[-1].answer for timed in columns)

    def rate(answer: Answer) -> str:
        speed = answer.decode_tokens_per_second
        return "-" if speed is None else f"{speed:.1f} tokens/s"

    def seconds(head: str, of: Callable[[Timed], float]) -> tuple[str, ...]:
        medians = (f"{1000 * statistics.median(map(of, timed)):.1f} ms" for timed in columns)
        each = [of(one) / of(other) for one, other in zip(*columns, strict=True)]
        return (head, *medians, f"{statistics.median(each):.2f}x")

    def tokens(head: str, left: int) -> tuple[str, ...]:
        return (head, f"{full.visual_tokens:,}", f"{left:,}", f"{left / full.visual_tokens:.1%}")

    apart = merged.separators
    beside = f", {apart} of the model's own separators (newlines) apart" if apart else ""
    print_answers(question, [("full tokens", full.text), (label, merged.text)])
    print()
    rows = [tokens("visual tokens", merged.visual_tokens)]
    if merged.last_layer is not None:
        rows.append(tokens(f"from layer {merged.last_layer} on", merged.remaining_tokens))
    rows += [
        seconds("reading the file", lambda run: run.reading),
        seconds("preprocessing", lambda run: run.preprocessing),
        seconds("vision tower", lambda run: run.answer.report.seconds["vision"]),
    ]
    if (reuse := merged.report.reuse) is not None:
        rows.append(("vision tower computed", "100.0%", f"{reuse.computed_share:.1%}", ""))
    before, after = full.decode_tokens_per_second, merged.decode_tokens_per_second
    faster = f"{after / before:.2f}x" if before and after else ""
    held, left = full.report.kv_bytes, merged.report.kv_bytes
    rows += [
        seconds("time to first token", lambda run: run.first_token),
        seconds("file to first token", lambda run: run.whole),
        ("decoding", rate(full), rate(merged), faster),
        ("KV cache", f"{held / 1e6:.2f} MB", f"{left / 1e6:.2f} MB", f"{left / held:.1%}"),
    ]
    print_table(("", "full tokens", label, ""), rows)
    print()
    print_notes(
        f"Visual tokens: those that entered the language model{beside}. Time to first token: vision tower, "
        "merging and prefill; file to first token: reading and preprocessing too. Seconds are medians of "
        f"{ROUNDS} runs of each column in turn, nothing shared, after one of each that does not count. x: "
        "times as fast as full tokens, median over the rounds."
    )
