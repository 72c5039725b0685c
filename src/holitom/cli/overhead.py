"""`holitom bench overhead`: the cost of merging itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.cli.app import bench, note, progress, ratios, working
from holitom.cli.options import WRITTEN, Json
from holitom.cli.tables import print_notes, print_table

if TYPE_CHECKING:
    from holitom.bench.outer_stages import OuterStage


@bench.command("overhead")
def bench_overhead(
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"all, or some with commas between, each as {WRITTEN}. [default: HoliTom's limits]"
        ),
    ] = None,
    retain: Annotated[str, typer.Option(help="With --methods: shares of visual tokens to keep.")] = "0.1",
    long: Annotated[
        bool, typer.Option("--long/--no-long", help="With --methods: also merge a video of 1,024 frames.")
    ] = True,
    device: Annotated[str, typer.Option(help="With --methods: auto, cpu (two threads), cuda, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="With --methods: float32, bfloat16 or float16.")] = "float32",
    as_json: Json = False,
) -> None:
    """Measure the cost of merging itself: tensor operations, device synchronisations, memory, time.

    Without --methods, HoliTom's figures beside their limits; with it, methods' outer stages beside HoliTom's.
    """
    if methods is not None:
        _outer_stages(methods, retain, long, device, dtype, as_json)
        return
    from holitom.bench.imports import import_seconds
    from holitom.bench.overhead import overhead

    with working("Measuring"):
        figures = overhead()
        beyond_torch = {"name": "import holitom, beyond torch", "value": 1e3 * import_seconds()}
        figures["rows"].append({**beyond_torch, "unit": "ms", "limit": 50})
    if as_json:
        print(json.dumps(figures))
    else:
        print_overhead(figures)


def print_overhead(figures: dict[str, Any]) -> None:
    """Print the result of `holitom.bench.overhead.overhead` as a table."""
    rows = []
    for row in figures["rows"]:
        measured = "-" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
        rows.append((row["name"], measured.strip(), f"{row['limit']} {row['unit']}".strip()))
    print_table(("cost of merging", "measured", "at most"), rows)
    print_notes(
        "",
        f"{figures['machine']}. Times: fastest of several calls. Video: {figures['video']}. "
        "-: cannot be measured on this system.",
    )


def _outer_stages(methods: str, retain: str, long: bool, device: str, dtype: str, as_json: bool) -> None:
    """Print the cost of each method's outer stage."""
    wanted = ratios(retain)
    with working("Loading PyTorch"):
        from holitom.ask import device_named, dtype_named
        from holitom.bench.machine import describe
        from holitom.bench.outer_stages import FRAMES, LONG, outer_stages
        from holitom.bench.overhead import GRID, NARROW, WIDTH
        from holitom.bench.settings import budgets
        from holitom.methods.choose import read_methods

    where, precision = device_named(device), dtype_named(dtype, auto=False)
    settings = budgets(read_methods(methods), wanted)
    measured = [setting for setting in settings if setting.method is not None or setting.refused]
    steps = sum(1 + (long and setting.method is not None) for setting in measured)
    with progress("Measuring", steps) as advance:

        def done(stage: OuterStage) -> None:
            note(_told(stage))
            advance(1)

        found = outer_stages(settings, long, device=where, dtype=precision, done=done)
    machine = describe(where)
    if as_json:
        print(json.dumps({"machine": machine, "dtype": dtype, "methods": [asdict(stage) for stage in found]}))
        return
    heads = ["", "ms", "of\nHoliTom", "operations", "waits", "MB"]
    heads += ["long\ns", "long\nMB"] if long else []
    rows = (_row(stage, long) for stage in found)
    print_table(heads, [row for row in rows if row])
    print_notes("", *(f"Refused: {stage.title}: {stage.refused}" for stage in found if stage.refused))
    size = GRID * GRID
    extended = f", long on {LONG:,} x {size} x {NARROW}" if long else ""
    processor = machine["device"] if where.type == "cuda" else f"two threads of {machine['processor']}"
    print_notes(
        f"Outer stages on {FRAMES} x {size} x {WIDTH} (frames, tokens, width){extended}, {dtype}, on "
        f"{processor}, torch {machine['torch']}, synthetic video. ms: median of rounds in which method and "
        "HoliTom run in turn. waits: times that the host waits for the device. MB: peak memory above the "
        "video's."
    )


def _told(stage: OuterStage) -> str:
    """One line about the last measurement of a method."""
    if stage.refused:
        return f"{stage.title}: refused: {stage.refused}"
    if stage.long is not None:
        return f"{stage.title}, long video: {stage.long.seconds:,.1f} s, {_whole(stage.long.megabytes)} MB"
    assert stage.short is not None, "a method that is not refused is measured"
    return f"{stage.title}: {1e3 * stage.short.seconds:,.1f} ms, {stage.against_holitom:.1f}x HoliTom's time"


def _row(stage: OuterStage, long: bool) -> list[str]:
    """Cells of one method; none where it was refused."""
    if stage.short is None or stage.count is None:
        return []
    row = [
        stage.title,
        f"{1e3 * stage.short.seconds:,.1f}",
        f"{stage.against_holitom:.1f}x",
        f"{stage.count.operations:,}",
        f"{stage.count.synchronisations:,}",
        _whole(stage.short.megabytes),
    ]
    if stage.long is not None:
        row += [f"{stage.long.seconds:.1f}", _whole(stage.long.megabytes)]
    elif long:
        row += ["-", "-"]
    return row


def _whole(megabytes: float | None) -> str:
    return "-" if megabytes is None else f"{megabytes:,.0f}"
