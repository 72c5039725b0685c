"""`holitom methods` and `holitom models`: lists of the methods and of the model families."""

from __future__ import annotations

import json
from typing import Any

from holitom.cli.app import app, working
from holitom.cli.options import Json
from holitom.cli.tables import print_notes, print_table
from holitom.methods.registry import METHODS, method_class


@app.command("methods")
def methods_command(as_json: Json = False) -> None:
    """List the merging methods: what each does, which ratios it can meet, where it merges."""
    with working("Loading PyTorch"):
        rows: list[dict[str, Any]] = [
            {"name": name, "class": found.__name__, "does": row.does, "ratios": row.ratios}
            | {"retain_ratio": made.retain_ratio, "merges_inside": made.merges_inside}
            for name, row in METHODS.items()
            for found in [method_class(name)]
            for made in [found()]
        ]
    if as_json:
        print(json.dumps(rows))
        return
    print_table(
        ("name", "what it does", "ratios", "inside"),
        [
            (row["name"], row["does"], row["ratios"], "own" if row["merges_inside"] else "+inner")
            for row in rows
        ],
        left=(0, 1),
    )
    print_notes(
        "",
        "ratios: values that --retain may have; T: frames of the video. inside: own: the method has inner "
        "stages, inside the language model; +inner: it merges before the language model, and takes HoliTom's "
        "inner stage (--inner, or name+inner).",
        "full keeps every token; holitom-outer is HoliTom without its inner stage.",
    )


@app.command("models")
def models_command(as_json: Json = False) -> None:
    """List the supported model families with their transformers classes."""
    with working("Loading PyTorch"):
        from holitom.integrations.vllm import FAMILIES as SERVED
        from holitom.models import FAMILIES, family_of

        rows: list[dict[str, Any]] = [
            {"family": family_of(name), "class": name, "vllm": name in SERVED} for name in FAMILIES
        ]
        rows.sort(key=lambda row: str(row["family"]).lower())
    if as_json:
        print(json.dumps(rows))
        return
    print_table(
        ("family", "transformers class", "vLLM"),
        [(row["family"], row["class"], "yes" if row["vllm"] else "-") for row in rows],
        left=(0, 1),
    )
    print_notes(
        "",
        "Every family supports merging before and inside the language model, batches, generate with its "
        "caches and beams, and several videos. vLLM: merging before the language model in vLLM's server. "
        "LLaVA-Video's class is holitom's own and reads its original checkpoints; Qwen-Omni's class is the "
        "thinker, which takes videos and answers.",
    )
