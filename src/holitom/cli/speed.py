"""`holitom bench speed`: full tokens against each method, timed in turn in one process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.bundled import DEMO_QUESTION, DEMO_VIDEO, checkpoint, title_of
from holitom.cli import options
from holitom.cli.app import bench, note, quiet_transformers, ratios, read_video, working
from holitom.cli.tables import print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.bench.timings import Ratio, Row, Speed, Timing
    from holitom.video import Fit, Video

    Loaded = tuple[Any, Callable[[Video], Any], Fit | None]


@bench.command("speed")
def bench_speed(
    model: options.Model = None,
    random_weights: Annotated[
        str | None,
        typer.Option(
            help="Instead of a checkpoint, random weights at published shapes "
            "(llava-onevision-qwen2-0.5b, -7b, -72b) or at those of a config file."
        ),
    ] = None,
    share_layers: Annotated[
        bool,
        typer.Option(
            "--share-layers",
            help="With --random-weights: all layers of the language model have one layer's weights, so that "
            "its shape fits in less memory.",
        ),
    ] = False,
    video: Annotated[str | None, typer.Option(help="A video file. [default: the bundled demo]")] = None,
    frames: options.Frames = None,
    retain: Annotated[str, typer.Option(help="Shares of visual tokens to send, upper budgets.")] = "0.1",
    methods: options.Methods = "holitom-outer,holitom,holitom[reuse=true]",
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
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Seconds from file to first token, decoding and memory: full tokens against each method, in turn.

    Full tokens are loaded by transformers' own reader, the methods by this library's.
    """
    deadline = time.monotonic() + 60 * minutes
    if model and random_weights:
        raise SettingsError(
            "--model and --random-weights exclude each other: a checkpoint has its own weights"
        )
    if share_layers and not random_weights:
        raise SettingsError("--share-layers needs --random-weights: a checkpoint's layers have their own")
    options.check_least("new-tokens", new_tokens, 2)
    options.check_least("repeats", repeats)
    options.check_least("threads", threads)
    if not minutes > 0:
        raise SettingsError(f"minutes must be more than 0, not {minutes:g}")
    wanted = ratios(retain)
    options.check_asked(video, None, "bench speed", needed=False)
    options.check_run(dtype, device, model=model)
    with working("Loading PyTorch"):
        import torch

        from holitom.bench.loading import Loading
        from holitom.bench.settings import budgets
        from holitom.bench.speed import measure
        from holitom.methods.choose import read_methods
        from holitom.video import Sampling

    settings = budgets(read_methods(methods), wanted)
    frames = options.frames_asked(frames, random_weights or model)
    sampling = Sampling(frames)
    file = DEMO_VIDEO if video is None else Path(video)
    clip = read_video(file, sampling)
    name = random_weights or checkpoint(model)
    weights = "random weights, one layer's for all layers" if share_layers else "random weights"
    title = f"{name}, {weights}" if random_weights else title_of(model)
    quiet_transformers(name)
    note(f"Loading {title}")
    if threads:
        torch.set_num_threads(threads)
    if random_weights:
        live, prepare, fit = _random(name, frames, dtype, device, share_layers)
    else:
        live, prepare, fit = _checkpoint(name, dtype, device)
    numbers = list(clip.metadata.frames_indices or [])
    loading = Loading(file, sampling, numbers, prepare, fit)
    inputs, short = prepare(clip), prepare(clip.first(1))
    with working("Measuring") as say:

        def show(doing: str) -> None:
            say(f"Measuring: {doing}")

        speed = measure(live, inputs, short, settings, loading, new_tokens, repeats, deadline, show)
    shown = file.name
    if as_json:
        kind = ("random, shared" if share_layers else "random") if random_weights else "checkpoint"
        asked = {"model": name, "weights": kind, "video": shown}
        print(json.dumps(asked | speed.to_dict()))
    else:
        _print_speed(speed, title, shown)


def _checkpoint(name: str, dtype: str, device: str) -> Loaded:
    """A checkpoint's model, what makes its inputs of a clip, and how that resizes frames."""
    from holitom.ask import load_model
    from holitom.prompts import prompt
    from holitom.video.fitting import fit_of

    live, processor = load_model(name, dtype, device)
    return live, lambda clip: prompt(processor, clip, DEMO_QUESTION), fit_of(processor)


def _random(name: str, frames: int, dtype: str, device: str, share_layers: bool) -> Loaded:
    """The same for a model of random weights with room for so many frames."""
    from holitom.ask import device_named, dtype_named
    from holitom.bench.random_weights import FramesProcessor, random_model, random_prompt
    from holitom.video.fitting import fit_of

    precision = dtype_named("bfloat16" if dtype == "auto" else dtype)
    live = random_model(name, frames, precision, device_named(device), share_layers)
    fit = fit_of(FramesProcessor(live))
    return live, lambda clip: random_prompt(live, clip.frames, do_resize=not clip.fitted), fit


def _print_speed(speed: Speed, title: str, video: str) -> None:
    machine, (frames, tokens) = speed.machine, speed.video
    on_gpu = machine["device"] != "cpu"
    where = f"{machine['device']}, {machine['processor']}" if on_gpu else machine["processor"]
    print_notes(
        f"{title}; {machine['dtype']}, {machine['attention']} attention",
        f"{video}: {frames} frames x {tokens} visual tokens; prompt of {speed.prompt_tokens:,} tokens, "
        f"{speed.new_tokens} generated",
        f"{where}: {machine['cores']} cores, {machine['threads']} threads; torch {machine['torch']}, "
        f"transformers {machine['transformers']}",
        _protocol(speed),
        f"Full tokens: the file read by transformers' loader ({speed.loader}); methods: by holitom's",
        "",
    )
    _print_times(speed)
    if len(speed.rows) > 1:
        print()
        _print_gains(speed)
    print()
    for ratio, cost in speed.inner_ratios().items():
        taken = _spread(cost, speed.rounds)
        print_notes(
            f"Inner merging at {100 * ratio:g}%: prefill and inner merging take {taken} of w/o M's prefill"
        )
    for label, reason in speed.refused.items():
        print_notes(f"Refused: {label}: {reason}")
    for row in speed.rows:
        if row.computed is not None:
            print_notes(f"Vision tower computed by {row.setting.title}: {row.computed:.1%}")
    peak = "" if speed.vision_peak is None else f" ({speed.vision_peak / 1e6:,.0f} MB at its most)"
    kind = "memory allocated on the GPU" if on_gpu else "resident memory of the process"
    print_notes(
        f"TTFT: vision tower{peak} + reading its attention + outer and inner merging + prefill. File: TTFT "
        "+ reading the file + preprocessing. In faster prefill, inner merging counts as prefill. With reuse "
        "the tower's column holds the reading of its attention.",
        f"Peak: {kind} above the weights and the encoded video, from the attention to the last token.",
    )


def _print_times(speed: Speed) -> None:
    slow = speed.rows[0].median(lambda timing: timing.ttft) >= 10
    unit, scale = ("s", 1) if slow else ("ms", 1000)

    def seconds(row: Row, of: Callable[[Timing], float]) -> str:
        return f"{scale * row.median(of):.2f}"

    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("visual\ntokens", lambda row: f"{row.visual_tokens:,}"),
        (f"reading\n{unit}", lambda row: seconds(row, lambda timing: timing.load.reading)),
        (f"preproc.\n{unit}", lambda row: seconds(row, lambda timing: timing.load.preprocessing)),
        (f"tower\n{unit}", lambda row: seconds(row, attrgetter("vision"))),
        (f"attention\n{unit}", lambda row: seconds(row, attrgetter("attention"))),
        (f"outer\n{unit}", lambda row: seconds(row, attrgetter("outer"))),
        (f"inner\n{unit}", lambda row: seconds(row, attrgetter("inner"))),
        (f"prefill\n{unit}", lambda row: seconds(row, attrgetter("prefill"))),
        (f"TTFT\n{unit}", lambda row: seconds(row, attrgetter("ttft"))),
        (f"file to first\ntoken {unit}", lambda row: seconds(row, attrgetter("whole"))),
        ("merging\nof TTFT", lambda row: f"{row.share(lambda timing: timing.merging):.2%}"),
        ("decoding\ntokens/s", lambda row: f"{speed.decode_rate(row):.2f}"),
        ("KV\nMB", lambda row: f"{row.kv_bytes / 1e6:.1f}"),
        ("peak\nMB", lambda row: "-" if row.peak is None else f"{row.peak / 1e6:,.0f}"),
    ]
    print_table(
        ["", *(head for head, _ in columns)],
        [[row.setting.title, *(cell(row) for _, cell in columns)] for row in speed.rows],
    )


def _print_gains(speed: Speed) -> None:
    full = speed.rows[0]
    rows = []
    for row in speed.rows[1:]:
        known = row.peak is not None and full.peak
        rows.append(
            [
                row.setting.title,
                *(_spread(ratio, speed.rounds) for ratio in speed.speedups(row).values()),
                f"{row.kv_bytes / full.kv_bytes:.1%}",
                f"{row.peak / full.peak:.1%}" if known else "-",  # type: ignore[operator]
            ]
        )
    heads = (
        "against full tokens",
        "faster from file",
        "faster TTFT",
        "faster prefill",
        "faster decoding",
        "KV",
        "peak",
    )
    print_table(heads, rows)


def _protocol(speed: Speed) -> str:
    """How often each part was run, in words."""
    rounds = (
        "1 round, so no spread" if speed.rounds == 1 else f"medians of {speed.rounds} rounds (least..most)"
    )
    before = "an untimed round" if speed.warm_up_round else "a warm-up on one frame"
    vision = "once a round" if speed.encodings == speed.rounds > 1 else "once"
    return f"{rounds}, after {before}; the vision tower, the same for all without reuse, was timed {vision}"


def _spread(ratio: Ratio, rounds: int) -> str:
    spread = f" ({ratio.least:.2f}..{ratio.most:.2f})" if rounds > 1 else ""
    return f"{ratio.median:.2f}x{spread}"
