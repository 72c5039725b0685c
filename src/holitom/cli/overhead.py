"""`holitom bench overhead`: the cost of merging itself."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from holitom.cli.app import bench, working


@bench.command("overhead")
def bench_overhead(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the cost of merging itself: tensor operations, device synchronisations, memory, time."""
    from holitom.bench.imports import import_seconds
    from holitom.bench.overhead import overhead, print_overhead

    with working("Measuring"):
        figures = overhead()
        beyond_torch = {"name": "import holitom, beyond torch", "value": 1e3 * import_seconds()}
        figures["rows"].append({**beyond_torch, "unit": "ms", "limit": 50})
    if as_json:
        print(json.dumps(figures))
    else:
        print_overhead(figures)
