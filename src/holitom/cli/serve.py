"""`holitom bench serve`: what merging saves a running server."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holitom.cli.app import bench, note
from holitom.cli.tables import print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.bench.serve import Measured, Row


@bench.command("serve")
def bench_serve(
    url: Annotated[str, typer.Argument(help="A running server, merging: http://127.0.0.1:8000")],
    against: Annotated[
        str | None,
        typer.Option(
            help="The same model, served otherwise (without merging): another server's URL, or a file from "
            "--save."
        ),
    ] = None,
    rates: Annotated[
        str, typer.Option(help="Requests a second, one run each; inf: all at once.")
    ] = "1,4,inf",
    requests: Annotated[int, typer.Option(help="Requests in each run.")] = 64,
    frames: Annotated[int, typer.Option(help="Frames of each video.")] = 32,
    side: Annotated[int, typer.Option(help="Pixels a side.")] = 384,
    answer_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 64,
    videos: Annotated[
        str,
        typer.Option(help="noise, or still: a camera that stands still, of which reuse saves much."),
    ] = "noise",
    follow_ups: Annotated[
        bool,
        typer.Option(help="Ask another question about each video afterwards, which hits the prefix cache."),
    ] = True,
    name: Annotated[str, typer.Option(help="What to call the server in the table.")] = "merged",
    against_name: Annotated[str, typer.Option(help="What to call the other one.")] = "full tokens",
    save: Annotated[Path | None, typer.Option(help="Keep the figures of URL here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON objects, one a server.")] = False,
) -> None:
    """TTFT, inter-token latency, throughput and KV cache of a server under load, merged and not."""
    from holitom.bench.serve import Load, Measured, measure

    if min(requests, side, answer_tokens) < 1 or frames < 2:
        raise SettingsError("requests, side and answer-tokens must be at least 1, frames at least 2")
    if videos not in ("noise", "still"):
        raise SettingsError(f"videos must be noise or still, not {videos!r}")
    load = Load(requests, frames, side, answer_tokens=answer_tokens, videos=videos)
    full: Measured | None = None
    if against is not None and "://" not in against:
        if not Path(against).is_file():
            raise SettingsError(f"against must be a server's URL or a file, got {against!r}")
        full = Measured.from_json(Path(against).read_text())
        if full.load != load or [row.rate for row in full.rows] != _rates(rates):
            raise SettingsError(f"{against} was measured under another load: {full.load}")
    merged = measure(url, _rates(rates), load, note, follow_ups=follow_ups)
    if save is not None:
        save.write_text(merged.to_json())
    if against is not None and full is None:
        full = measure(against, _rates(rates), load, note, follow_ups=follow_ups)
    if as_json:
        for measured in filter(None, (merged, full)):
            print(measured.to_json())
    else:
        _print(merged, full, name, against_name)


def _rates(text: str) -> list[float]:
    try:
        given = [float(part) for part in text.split(",")]
    except ValueError:
        given = []
    if not given or not all(rate > 0 for rate in given):
        raise SettingsError(f"rates must be positive numbers such as 1,4,inf, not {text!r}")
    return given


def _print(merged: Measured, full: Measured | None, name: str, against: str) -> None:
    rows: list[tuple[str, ...]] = []
    for index, row in enumerate(merged.rows):
        rate = _at(row)
        if full is None:
            rows.append((rate, *_figures(row)))
            continue
        rows.append((f"{rate}: {against}", *_figures(full.rows[index])))
        rows.append((f"{rate}: {name}", *_figures(row)))
        rows.append((f"{rate}: {name} is", *_ratios(row, full.rows[index])))
    print_table(("", "TTFT", "p99", "ITL", "requests/s", "tokens/s", "KV peak", "prompt", "fit"), rows)
    print_notes(
        "",
        "TTFT: time to first token, median and 99th percentile. ITL: time between tokens. KV peak: share of "
        "the cache in use at its most. prompt: tokens. fit: requests of this length that the cache holds at "
        "once. Rates: requests a second.",
    )
    _print_follow_ups({name: merged} if full is None else {against: full, name: merged})


def _print_follow_ups(measured: dict[str, Measured]) -> None:
    """Print TTFT of the further questions of each server, by its name in the table."""
    rows: list[tuple[str, ...]] = []
    for index in range(len(next(iter(measured.values())).rows)):
        for name, server in measured.items():
            row = server.rows[index]
            asked = row.follow_ups
            if asked is not None:
                times = (f"{row.ttft:.0f} ms", f"{asked.ttft:.0f} ms", f"{asked.ttft_p99:.0f} ms")
                label = f"{_at(row)}: {name}" if len(measured) > 1 else _at(row)
                rows.append((label, *times, f"{asked.of_first:.0%} of it", f"{asked.cached:.0%}"))
    if not rows:
        return
    print_notes("")
    print_table(("", "first TTFT", "follow-up TTFT", "p99", "is", "cached"), rows)
    print_notes(
        "",
        "Follow-ups: another question about each video, after the first ones were answered. cached: share of "
        "their prompt tokens found in the prefix cache.",
    )


def _at(row: Row) -> str:
    """A row's request rate, as the tables name it."""
    return "at once" if math.isinf(row.rate) else f"{row.rate:g}/s"


def _figures(row: Row) -> tuple[str, ...]:
    return (
        f"{row.ttft:.0f} ms",
        f"{row.ttft_p99:.0f} ms",
        f"{row.itl:.1f} ms",
        f"{row.requests_per_second:.2f}",
        f"{row.tokens_per_second:.0f}",
        f"{row.kv_peak:.1%}",
        f"{row.prompt_tokens:.0f}",
        f"{row.fit}",
    )


def _ratios(merged: Row, full: Row) -> tuple[str, ...]:
    """How many times faster, and how many times less or more of the rest."""
    pairs = (
        (full.ttft, merged.ttft, "faster"),
        (full.ttft_p99, merged.ttft_p99, "faster"),
        (full.itl, merged.itl, "faster"),
        (merged.requests_per_second, full.requests_per_second, "more"),
        (merged.tokens_per_second, full.tokens_per_second, "more"),
        (full.kv_peak, merged.kv_peak, "less"),
        (full.prompt_tokens, merged.prompt_tokens, "less"),
        (merged.fit, full.fit, "more"),
    )
    return tuple(f"{over / under:.2f}x {word}" if under else "-" for over, under, word in pairs)
