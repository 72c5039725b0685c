"""`holitom flops`: the costs of a prompt with one video."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from holitom.bundled import USUAL_FRAMES
from holitom.cli.app import app, quiet_transformers, ratios, working
from holitom.cli.options import WRITTEN, Json
from holitom.cli.tables import print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.costs import Cost, Costs


@app.command()
def flops(
    model: Annotated[
        str, typer.Option(help="Published shapes by name, a checkpoint's folder, a config file or a hub id.")
    ] = "llava-onevision-qwen2-7b",
    frames: Annotated[int, typer.Option(help="Frames of the video.")] = USUAL_FRAMES,
    size: Annotated[
        str, typer.Option(help="Width and height of its frames, for models that keep the size of frames.")
    ] = "640x360",
    retain: Annotated[str, typer.Option(help="Shares of visual tokens to keep.")] = "0.25,0.2,0.15,0.1",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            "--method",
            help=f"all, or some with commas between, each as {WRITTEN}. "
            "[default: the rows of the paper's table]",
        ),
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens of the prompt besides the video's.")] = 32,
    dtype: Annotated[
        str, typer.Option(help="Dtype of the KV cache: float32, bfloat16 or float16.")
    ] = "bfloat16",
    as_json: Json = False,
) -> None:
    """Count operations and KV cache of a prompt with one video, by method and budget.

    Operations are counted on the shapes of the real model class; no weights are read.
    """
    wanted, pixels = ratios(retain), _size(size)
    with working("Loading PyTorch") as say:
        from holitom.costs import USUAL, costs

        quiet_transformers(model)
        say("Counting")
        counted = costs(model, frames, wanted, methods or USUAL, text_tokens, dtype, pixels)
    if as_json:
        print(json.dumps(counted.to_dict()))
    else:
        _print_costs(counted, frames)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise SettingsError(f"size must be a width and a height such as 640x360, not {text!r}")
    return int(width), int(height)


def _print_costs(costs: Costs, frames: int) -> None:
    from holitom.costs import unit_of

    full = costs.rows[0]
    unit, scale = unit_of(full.prefill.operations)

    def cells(row: Cost) -> list[str]:
        first, *inner = row.plan.levels()
        vision, prefill = costs.vision_operations(row), row.prefill.operations
        return [
            row.plan.label,
            ", ".join([f"{first.tokens:,}", *(f"{level.tokens:,} @{level.start}" for level in inner)]),
            f"{row.paper / scale:.1f}",
            f"{row.paper / full.paper:.1%}",
            f"{vision / scale:.1f}",
            f"{prefill / scale:.1f}",
            f"{prefill / full.prefill.operations:.1%}",
            f"{(vision + prefill) / scale:.1f}",
            f"{(vision + prefill) / (costs.vision_operations(full) + full.prefill.operations):.1%}",
            f"{row.prefill.cache_bytes / 1e6:.1f}",
        ]

    counts = [f"{name}\n{unit}" for name in ("paper", "vision", "prefill", "total")]
    shown = costs.vision
    pairs = " (of two)" if shown.frames < frames else ""
    print_notes(
        f"{costs.model}: {shown.frames} frames{pairs} x {shown.tokens} visual tokens + {shown.separators} "
        f"for newlines, {costs.text_tokens} text tokens; KV cache in {costs.dtype}"
    )
    print()
    share = "of full"
    print_table(
        ("", "visual tokens", counts[0], share, counts[1], counts[2], share, counts[3], share, "KV MB"),
        [cells(row) for row in costs.rows],
    )
    for label, reason in costs.refused.items():
        print_notes("", f"Not counted: {label}: {reason}")
    print_notes(
        "",
        "n @k: n tokens from layer k on. paper: 4nd^2 + 2n^2d + 2ndm for each layer, visual tokens alone.",
        "vision, prefill: counted by torch on the model's own class, with newlines and text; matrix products "
        "and convolutions, not softmax, norms or elementwise work, nor merging itself (reading importance or "
        "keys is in vision). total: vision and prefill, the work before the first token. HoliTom is counted "
        "as on a video without static tokens.",
    )
