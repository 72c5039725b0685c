"""`holitom compare`: did merging change the answers on your own videos?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from holitom.cli import options
from holitom.cli.app import app, load, note, progress, working
from holitom.cli.tables import print_answers, print_notes, print_table
from holitom.errors import SettingsError

SHOWN = 10  # questions that differ


@app.command()
def compare(
    questions: options.Questions,
    model: options.Model = None,
    method: options.MethodName = "holitom",
    retain: options.Retain = None,
    threshold: options.Threshold = None,
    inner: options.Inner = None,
    reuse: options.ReuseTower = False,
    tower_batch: options.TowerBatch = None,
    frames: options.Frames = None,
    frames_by: options.FramesBy = "time",
    max_new_tokens: options.MaxNewTokens = 64,
    output: Annotated[Path | None, options.answers_file("QUESTIONS.compare.jsonl, beside them")] = None,
    at_least: Annotated[
        float | None,
        typer.Option(
            help="Exit with 1 unless this share of the answers, in [0, 1], is the same.", show_default=False
        ),
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Answer your own questions with full and with merged tokens, and say where they differ.

    Agreement, tokens, times and differences go to stdout, progress to stderr.
    """
    if at_least is not None and not 0 <= at_least <= 1:
        raise SettingsError(f"at-least must be in [0, 1], not {at_least:g}")
    options.check_run(dtype, device, max_new_tokens, model)
    choice = options.method_asked(method, retain, threshold, inner, reuse, tower_batch)
    chosen = choice.make()
    sampling = options.sampling_asked(frames, model, frames_by)
    with working("Reading the questions"):
        from holitom.bench.cases import Results, read_cases
        from holitom.bench.compare import compare as run
        from holitom.bench.compare import summary
        from holitom.methods.choose import FULL

    if choice.name == FULL:
        raise SettingsError("compare sets a method beside full tokens; with --method full there is none")
    made = {
        "model": model or "bundled",
        "method": repr(chosen),
        "frames": sampling.frames,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype,
    }
    if frames_by != "time":
        made["frames_by"] = frames_by
    file = output or questions.with_name(f"{questions.stem}.compare.jsonl")
    results = Results(file, made, read_cases(questions))
    total, left = len(results.cases), len(results.open)
    note(f"{total:,} questions, {total - left:,} answered already, in {results.path}")
    if left:
        loaded, processor = load(model, dtype, device)
        with progress("Answering", total, total - left) as advance:
            run(loaded, processor, results, chosen, sampling, max_new_tokens, lambda _: advance(1))
    found = summary(results)
    if as_json:
        print(json.dumps({**made, "output": str(file), **found}))
    else:
        _print(found, choice.label, file)
    if at_least is not None and not (found["agreement"] or 0) >= at_least:
        note(f"Fewer than {at_least:.1%} of the answers are the same")
        raise typer.Exit(1)
    if found["errors"]:
        raise typer.Exit(1)


def _print(found: dict[str, Any], label: str, file: Path) -> None:
    def row(
        head: str, full: float | None, merged: float | None, scale: float = 1, form: str = ",.0f"
    ) -> tuple[str, ...]:
        values = ("-" if value is None else format(value * scale, form) for value in (full, merged))
        return (head, *values, "" if not full or merged is None else f"{merged / full:.1%}")

    answered, right = found["answered"], found["right"]
    print_notes(
        f"{found['same']} of {answered} answers are the same"
        + ("" if found["agreement"] is None else f" ({found['agreement']:.1%})")
        + (f"; {len(found['errors'])} questions could not be asked" if found["errors"] else ""),
        "",
    )
    tokens, ttft, cache = found["visual_tokens"], found["ttft_seconds"], found["kv_cache_bytes"]
    sooner = "" if found["ttft_ratio"] is None else f"{found['ttft_ratio']:.2f}x"
    rows = [
        row("visual tokens", tokens["full"], tokens["merged"]),
        row("left in the last layer", tokens["full"], tokens["remaining"]),
        (*row("time to first token, ms", ttft["full"], ttft["merged"], 1000, ",.1f")[:3], sooner),
        row("KV cache, MB", cache["full"], cache["merged"], 1e-6, ",.2f"),
    ]
    if right["judged"]:
        rows.insert(
            0,
            (
                f"right, of {right['judged']}",
                f"{right['full']:.1%}",
                f"{right['merged']:.1%}",
                f"{right['lost']} lost, {right['won']} won",
            ),
        )
    print_table(("", "full tokens", label, ""), rows)
    print_notes(
        "",
        "Means over the questions; x is the median of how many times sooner. Answers are the same where "
        "their words are; case and punctuation aside."
        + (" lost, won: right with full tokens alone, with merged ones alone." if right["judged"] else ""),
    )
    for difference in found["differences"][:SHOWN]:
        print(f"\n{difference['video']}")
        said = [("full tokens", difference["said"]["full"]), (label, difference["said"]["merged"])]
        if difference["answer"] is not None:
            said.append(("right", difference["answer"]))
        print_answers(difference["question"], said, verdict=False)
    if len(found["differences"]) > SHOWN:
        print(f"\nand {len(found['differences']) - SHOWN} more that differ, in {file}")
    for failed in found["errors"][:SHOWN]:
        print_notes("", f"Not asked: {failed['video']}: {failed['error']}")
