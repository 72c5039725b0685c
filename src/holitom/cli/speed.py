"""`holitom bench speed`: full tokens against each method, timed in turn in one process."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.cli.app import (
    BUNDLED_FRAMES,
    BUNDLED_MODEL,
    DEMO_QUESTION,
    DEMO_VIDEO,
    USUAL_FRAMES,
    bench,
    note,
    notes,
    print_table,
    quiet_transformers,
    ratios,
    read_video,
)
from holitom.errors import SettingsError
from holitom.methods.registry import METHODS, VARIANTS

if TYPE_CHECKING:
    from holitom.bench.speed import Ratio, Speed
    from holitom.video import Video

NAMES = (*VARIANTS, *METHODS)


@bench.command("speed")
def bench_speed(
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint's folder or Hugging Face id. [default: the bundled tiny model]"),
    ] = None,
    random_weights: Annotated[
        str | None,
        typer.Option(
            help="Instead of a checkpoint, random weights at published shapes "
            "(llava-onevision-qwen2-0.5b, -7b, -72b) or at those of a config file."
        ),
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A video file. [default: the bundled demo]")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames to sample. [default: 16 for the bundled model, else 32]")
    ] = None,
    retain: Annotated[str, typer.Option(help="Shares of visual tokens to keep.")] = "0.1",
    methods: Annotated[
        str, typer.Option(help=f"all, or some of: {','.join(NAMES)}.")
    ] = "holitom-outer,holitom",
    new_tokens: Annotated[int, typer.Option(help="Tokens that every setting generates.")] = 16,
    repeats: Annotated[
        int | None, typer.Option(help="Rounds that count. [default: as many as --minutes allows, up to 7]")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="No round starts that would end later than this; one always runs.")
    ] = 14,
    threads: Annotated[int | None, typer.Option(help="Threads of torch. [default: torch's own]")] = None,
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's; bfloat16 for random weights), float32, ...")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time to first token, decoding and memory: full tokens and each method in turn, in one process.

    Medians over rounds; every round runs each setting once.
    """
    deadline = time.monotonic() + 60 * minutes
    if model and random_weights:
        raise SettingsError(
            "--model and --random-weights exclude each other: a checkpoint has its own weights"
        )
    for name, value in (("new-tokens", new_tokens - 1), ("repeats", repeats), ("threads", threads)):
        if value is not None and value < 1:
            raise SettingsError(f"{name} must be at least {2 if name == 'new-tokens' else 1}")
    if not minutes > 0:
        raise SettingsError(f"minutes must be more than 0, not {minutes:g}")
    chosen = NAMES if methods == "all" else tuple(dict.fromkeys(methods.split(",")))
    budgets = list(dict.fromkeys(ratios(retain)))
    with notes.status("Loading PyTorch"):
        import torch

        from holitom.bench.speed import measure, settings

    wanted, refused = settings(chosen, budgets)
    bundled = not (model or random_weights)
    clip = read_video(
        video or DEMO_VIDEO, frames if frames is not None else BUNDLED_FRAMES if bundled else USUAL_FRAMES
    )
    name = random_weights or model or str(BUNDLED_MODEL)
    quiet_transformers(name)
    if threads:
        torch.set_num_threads(threads)
    note(
        f"Making random weights for {name}"
        if random_weights
        else f"Loading {'the bundled model' if bundled else name}"
    )
    live, inputs, short = (_random if random_weights else _checkpoint)(name, clip, dtype, device)
    with notes.status("Measuring") as status:
        speed = measure(
            live,
            inputs,
            short,
            wanted,
            new_tokens,
            repeats,
            deadline,
            lambda doing: status.update(f"Measuring: {doing}"),
        )
    speed.refused = refused | speed.refused

    shown = (video or DEMO_VIDEO).name
    title = name if model or random_weights else "the bundled model"
    if as_json:
        asked = {"model": name, "weights": "random" if random_weights else "checkpoint", "video": shown}
        print(json.dumps(asked | speed.to_dict()))
    else:
        _print_speed(speed, f"{title}{', random weights' if random_weights else ''}", shown)


def _checkpoint(name: str, clip: Video, dtype: str, device: str) -> tuple[Any, Any, Any]:
    """A checkpoint's model, and its processor's inputs for the whole clip and for one frame of it."""
    from holitom.ask import load_model, prompt

    live, processor = load_model(name, dtype, device)
    first = (clip.metadata.frames_indices or [0])[:1]
    short = replace(clip, frames=clip.frames[:1], metadata=replace(clip.metadata, frames_indices=first))
    return live, prompt(processor, clip, DEMO_QUESTION), prompt(processor, short, DEMO_QUESTION)


def _random(name: str, clip: Video, dtype: str, device: str) -> tuple[Any, Any, Any]:
    """Likewise, of random weights."""
    from holitom.ask import device_named, dtype_named
    from holitom.bench.random_weights import random_model, random_prompt

    precision = dtype_named("bfloat16" if dtype == "auto" else dtype)
    live = random_model(name, len(clip.frames), precision, device_named(device))
    return live, random_prompt(live, clip.frames), random_prompt(live, clip.frames[:1])


def _print_speed(speed: Speed, title: str, video: str) -> None:
    from rich.table import Table

    machine, full = speed.machine, speed.rows[0]
    slow = full.median(lambda timing: timing.ttft) >= 10
    unit, scale = ("s", 1) if slow else ("ms", 1000)

    def share(of: float | None, whole: float | None) -> str:
        return "-" if of is None or not whole else f"{of / whole:.1%}"

    heads = ("vision", "reading", "outer", "inner", "prefill", "TTFT")
    times = Table(
        "",
        "visual\ntokens",
        *(f"{head}\n{unit}" for head in heads),
        "merging\nof TTFT",
        "decoding\ntokens/s",
        "KV cache\nMB",
        "peak\nMB",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for row in speed.rows:
        seconds = [row.median(lambda timing, head=head: getattr(timing, head.lower())) for head in heads]  # type: ignore[misc]
        times.add_row(
            row.setting.label,
            f"{row.visual_tokens:,}",
            *(f"{scale * spent:.2f}" for spent in seconds),
            f"{row.merging_share:.2%}",
            f"{speed.decode_rate(row):.2f}",
            f"{row.kv_bytes / 1e6:.1f}",
            "-" if row.peak is None else f"{row.peak / 1e6:.0f}",
        )
    gains = Table(
        "against full tokens",
        "TTFT",
        "prefill",
        "decoding",
        "KV cache",
        "peak",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for row in speed.rows[1:]:
        gains.add_row(
            row.setting.label,
            *(_times(ratio, speed.rounds) for ratio in speed.speedups(row).values()),
            share(row.kv_bytes, full.kv_bytes),
            share(row.peak, full.peak),
        )

    where = (
        machine["processor"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['processor']}"
    )
    frames, tokens = speed.video
    print(
        f"{title}; {machine['dtype']}, {machine['attention']} attention\n"
        f"{video}: {frames} frames x {tokens} visual tokens; prompt of {speed.prompt_tokens:,} tokens, "
        f"{speed.new_tokens} generated\n"
        f"{where}: {machine['cores']} cores, {machine['threads']} threads; torch {machine['torch']}, "
        f"transformers {machine['transformers']}\n"
        f"{_protocol(speed)}\n"
    )
    print_table(times)
    if len(speed.rows) > 1:
        print()
        print_table(gains)
    for ratio, cost in speed.inner_ratios().items():
        print(
            f"\nInner merging at {100 * ratio:g}%: prefill with it takes {_times(cost, speed.rounds)} of that without."
        )
    for label, reason in speed.refused.items():
        print(f"\nRefused: {label}: {reason}")
    peak = "" if speed.vision_peak is None else f", {speed.vision_peak / 1e6:,.0f} MB at its most"
    kept = "allocated on the GPU" if machine["device"] != "cpu" else "resident memory of the process"
    print(
        f"\nTTFT is vision tower{peak} + reading (of its last attention) + outer + inner merging + prefill.\n"
        "merging: reading, outer and inner. In the second table prefill counts inner merging in.\n"
        f"peak: {kept} above what was in use with weights loaded and the video encoded."
    )


def _protocol(speed: Speed) -> str:
    """How often what was run."""
    rounds = (
        "1 round: no spread"
        if speed.rounds == 1
        else f"{speed.rounds} rounds: medians (least..most of a round)"
    )
    before = "after an untimed round" if speed.warm_up_round else "after a warm-up on one frame only"
    vision = "each" if speed.encodings == speed.rounds > 1 else "once"
    return f"{rounds}, {before}; the vision tower's time, the same for all settings, was taken {vision}"


def _times(ratio: Ratio, rounds: int) -> str:
    spread = f" ({ratio.least:.2f}..{ratio.most:.2f})" if rounds > 1 else ""
    return f"{ratio.median:.2f}x{spread}"
