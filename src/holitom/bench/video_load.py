"""Run vLLM's load generator with videos that a seed decides, and with the video before the question.

    python -m holitom.bench.video_load KIND SEED bench serve ...

`KIND` is "noise", the generator's own videos, or "still", a camera that stands still. The generator's
`--seed` decides the questions alone, so two runs can ask different questions about the same videos.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from holitom.bench.still_load import encoded, still_frames

KINDS = ("noise", "still")
"""Kinds of videos."""


def seeded(draw: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """Make a method of a dataset, `draw`, use a generator of random numbers of its own in each call.

    Args:
        draw: method that draws a video with `self._rng`.
        seed: seed of all videos; the number of the call is the other half of each one's.
    """
    calls = count()

    @functools.wraps(draw)
    def drawn(self: Any, *args: Any, **kwargs: Any) -> Any:
        own, self._rng = self._rng, np.random.default_rng([seed, next(calls)])
        try:
            return draw(self, *args, **kwargs)
        finally:
            self._rng = own

    return drawn


def still_video(self: Any, width: int, height: int, num_frames: int) -> dict[str, bytes]:
    """Draw a still camera's video, in the place of a dataset's `generate_synthetic_video`."""
    return {"bytes": encoded(still_frames(self._rng, width, height, num_frames))}


def main() -> None:
    """Run `vllm` with the arguments behind `KIND` and `SEED`."""
    from vllm.benchmarks.datasets import RandomMultiModalDataset
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS
    from vllm.entrypoints.cli.main import main as vllm

    kind, seed = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    draw = still_video if kind == "still" else RandomMultiModalDataset.generate_synthetic_video
    RandomMultiModalDataset.generate_synthetic_video = seeded(draw, seed)
    # A cache of prefixes holds a video only where no other question stands before it.
    chat = "openai-chat"
    ASYNC_REQUEST_FUNCS[chat] = functools.partial(ASYNC_REQUEST_FUNCS[chat], mm_position="first")
    vllm()


if __name__ == "__main__":
    main()
