"""Load a vLLM server of the bundled model for minutes, check every answer and measure its memory.

python tools/serve_mixed.py               # ten minutes, a hundred requests at a time, reuse in the tower
python tools/serve_mixed.py --seconds 60  # in the environment of `make test-vllm`, as above
python tools/serve_mixed.py --full-tokens # the same load on a server without merging, to compare its memory

Videos that carry a number, images and text come with corrupt files and clients that leave early. The exit
code is 1 if an answer is not the one that the request gets alone, if a request fails that must not, or if
memory at the end is more than 5% off its level after the first minute.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.serving import Server

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the server and the load of the tests

OPTIONS = (
    *("--mm-processor-cache-gb", "0.4", "--num-gpu-blocks-override", "1024"),
    "--enforce-eager",
)
"""Of the server. Its caches are full soon: processed videos, and 32,768 tokens' keys and values. The first
holds all requests in flight: where it does not, vLLM's two copies of it differ now and then, and it answers
"P0/P1 cache drift" with status 500."""

WINDOW = 20.0
"""Seconds over which a level of memory is the median."""


class Memory:
    """The memory of a server, measured every two seconds while the `with` block runs.

    Attributes:
        samples: seconds since the beginning, and MB.
    """

    def __init__(self, server: Server) -> None:
        self.samples: list[tuple[float, float]] = []
        self._server, self._stop = server, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(2):
            self.samples.append((time.monotonic() - began, self._server.memory()))

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def level(self, begin: float) -> float:
        """The median in MB of `WINDOW` seconds from `begin` on, in seconds."""
        return median(mb for at, mb in self.samples if begin <= at < begin + WINDOW)


def survives(server: Server, seconds: float, at_once: int, videos: int) -> bool:
    """Load a server and print what happened; return whether all was well."""
    from openai import OpenAI
    from support.mixed_load import MixedLoad

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600, max_retries=0)
    load = MixedLoad(client, videos)
    print(f"{videos} videos, each with a number of its own, were read rightly alone")
    with Memory(server) as memory:
        tally = load.run(seconds, at_once)
    server.settle()
    ended = ", ".join(f"{kind}: {count}" for kind, count in sorted(tally.ended.items()))
    print(f"{sum(tally.ended.values())} requests ended as they must ({ended}), {len(tally.wrong)} did not")
    print(*tally.wrong[:10], sep="\n")
    for minute in range(int(seconds // 60) + 1):
        held = [mb for at, mb in memory.samples if 60 * minute <= at < 60 * (minute + 1)]
        if held:
            print(f"minute {minute + 1}: {min(held):.0f} to {max(held):.0f} MB")
    first = memory.level(min(60.0, seconds / 2))
    last = memory.level(seconds - WINDOW)
    print(f"memory after the first minute {first:.0f} MB, at the end {last:.0f} MB: {last / first - 1:+.1%}")
    return not tally.wrong and abs(last / first - 1) <= 0.05


def main(seconds: float, at_once: int, videos: int, full_tokens: bool) -> bool:
    """Start the server and load it."""
    from support.serving import RETAIN, serving

    holitom = None if full_tokens else {"retain_ratio": RETAIN, "reuse": True}
    longer = ("--max-model-len", "4096") if full_tokens else ()  # for several videos in a prompt
    with serving(holitom, *OPTIONS, *longer) as server:
        return survives(server, seconds, at_once, videos)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--full-tokens", action="store_true")
    sys.exit(0 if main(**vars(parser.parse_args())) else 1)
