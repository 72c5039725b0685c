"""`holitom answer`: answer a file of questions about videos with vLLM's engine in batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from holitom.bundled import checkpoint
from holitom.cli import options
from holitom.cli.app import app, note, progress, quiet_transformers, working
from holitom.cli.tables import print_notes
from holitom.errors import SettingsError

SHOWN = 10  # questions that were left out


@app.command()
def answer(
    questions: options.Questions,
    model: options.Model = None,
    method: options.MethodName = "holitom",
    retain: options.Retain = None,
    threshold: options.Threshold = None,
    reuse: options.ReuseTower = False,
    frames: options.Frames = None,
    frames_by: options.FramesBy = "time",
    max_new_tokens: options.MaxNewTokens = 64,
    output: Annotated[Path | None, options.answers_file("QUESTIONS.answers.jsonl, beside QUESTIONS")] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Go on where a video cannot be read or a question cannot be asked: the reason is in the "
            "question's record, and the exit code is 1. Without this option the run stops there.",
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="Answer one part of the file, such as 1/8 to 8/8, as one of several runs. The parts' files "
            "are QUESTIONS.answers-1-of-8.jsonl and so on.",
            show_default=False,
        ),
    ] = None,
    at_once: Annotated[int, typer.Option(help="Questions in the engine at a time.")] = 32,
    engine: Annotated[
        str, typer.Option(help="""More arguments of vllm.LLM as JSON: '{"tensor_parallel_size": 4}'.""")
    ] = "{}",
    as_json: options.Json = False,
) -> None:
    """Answer a file of questions about videos with vLLM's engine, many at a time, without a server.

    Answers go to a file, in the order of the questions; the summary goes to stdout, progress to stderr.
    """
    if min(max_new_tokens, at_once) < 1:
        raise SettingsError("max-new-tokens and at-once must be at least 1")
    sampled = options.frames_asked(frames, model)
    number, parts = _part(part)
    arguments = _arguments(engine)
    entry = _entry(method, retain, threshold, reuse)
    with working("Reading the questions"):
        from holitom.bench.cases import Results, read_cases
        from holitom.integrations.vllm.offline import Setup, check, summary
        from holitom.integrations.vllm.offline import answer as run

    name = checkpoint(model)
    setup = Setup(name, entry, sampled, max_new_tokens, arguments, at_once, cast("Any", frames_by))
    check(setup)
    made = {
        "model": model or "bundled",
        "holitom": entry,
        "frames": sampled,
        "max_new_tokens": max_new_tokens,
        "engine": arguments,
        "part": part,
    }
    if frames_by != "time":
        made["frames_by"] = frames_by
    cases = read_cases(questions, missing=True)
    cases = cases[len(cases) * (number - 1) // parts : len(cases) * number // parts]
    ending = "" if part is None else f"-{number}-of-{parts}"
    file = output or questions.with_name(f"{questions.stem}.answers{ending}.jsonl")
    results = Results(file, made, cases, "holitom answer")
    total, left = len(results.cases), len(results.open)
    note(f"{total:,} questions, {total - left:,} answered already, in {results.path}")
    if left:
        quiet_transformers(setup.model)
        with progress("Answering", total, total - left) as advance:
            run(results, setup, skip_bad, lambda _: advance(1))
    results.put_in_order()
    found = summary(results)
    if as_json:
        print(json.dumps({**made, "output": str(file), **found}))
    else:
        _print(found, file)
    if found["errors"]:
        raise typer.Exit(1)


def _entry(method: str, retain: float | None, threshold: float | None, reuse: bool) -> dict[str, Any] | None:
    """The `holitom` entry that the options ask for; None: full tokens of the stock tower."""
    choice = options.method_asked(method, retain, threshold, None, reuse)
    if choice.name == "full" and not reuse:
        return None
    entry = {"retain_ratio": retain, "similarity_threshold": threshold, "reuse": reuse or None}
    return {"method": method, **{name: value for name, value in entry.items() if value is not None}}


def _arguments(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise SettingsError(
            f"""engine must be a JSON object such as '{{"tensor_parallel_size": 4}}', not {text!r}"""
        )
    return given


def _part(text: str | None) -> tuple[int, int]:
    """Number and count of the parts that `text` names."""
    if text is None:
        return 1, 1
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise SettingsError(f"part must be a number and the number of parts, such as 1/8, not {text!r}")
    return int(number), int(parts)


def _print(found: dict[str, Any], file: Path) -> None:
    lines = [f"{found['answered']:,} of {found['questions']:,} questions answered, in {file}"]
    if found["judged"]:
        lines.append(f"{found['right']:,} of {found['judged']:,} answers are right")
    lines += [f"Left out: {failed['video']}: {failed['error']}" for failed in found["errors"][:SHOWN]]
    if len(found["errors"]) > SHOWN:
        lines.append(f"and {len(found['errors']) - SHOWN} more")
    print_notes(*lines)
