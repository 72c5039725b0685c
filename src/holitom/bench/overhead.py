"""The cost of merging itself: tensor operations, device synchronisations, time and memory.

The videos are synthetic and as redundant as real videos: scenes with hard cuts, a still background with
sensor noise, and a quarter of the tokens moving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from holitom.ask import load_model, prompt
from holitom.bench.machine import peak_memory, processor, threads
from holitom.bench.second_device import reads_values
from holitom.bench.synchronisations import added_synchronisations
from holitom.bundled import BUNDLED_FRAMES, BUNDLED_MODEL, DEMO_QUESTION, DEMO_VIDEO
from holitom.methods.holitom import HoliTom
from holitom.ops.host import HOST
from holitom.ops.segmentation import best_segments, neighbour_similarity, static_counts, static_until
from holitom.runtime.report import mark, seconds_between
from holitom.tokens import VideoTokens
from holitom.video import load_video

# LLaVA-OneVision-7B: 14 x 14 pooled tokens a frame, 3584 wide; its 0.5B sibling is 896 wide.
GRID, WIDTH, NARROW = 14, 3584, 896


def synthetic_video(frames: int, width: int = WIDTH, dtype: torch.dtype | None = None) -> VideoTokens:
    """Draw features of a redundant video: a hard cut every 4 to 12 frames, a quarter of each frame moving.

    Args:
        frames: `T`.
        width: `D`.
        dtype: dtype of the features; None: float32.
    """
    rng = torch.Generator().manual_seed(0)
    tokens = GRID * GRID
    features = torch.empty(frames, tokens, width, dtype=dtype or torch.float32)
    moving, until = torch.zeros(tokens, dtype=torch.bool), 0
    background = torch.empty(0)
    for frame in range(frames):
        if frame == until:  # a cut
            until += int(torch.randint(4, 13, (), generator=rng))
            background = torch.randn(tokens, width, generator=rng)
            moving = torch.rand(tokens, generator=rng) < 0.25
        shown = background + 0.2 * torch.randn(tokens, width, generator=rng)  # cosine 0.96 to the next
        shown[moving] = torch.randn(int(moving.sum()), width, generator=rng)
        features[frame] = shown
    return VideoTokens(features, torch.rand(frames, tokens, generator=rng), (GRID, GRID))


@dataclass(frozen=True)
class Count:
    """Number of dispatched tensor operations, and of those that make the host wait for a GPU."""

    operations: int
    synchronisations: int


def count_operations(call: Callable[[], object]) -> Count:
    """Run `call` and count the operations that it dispatches, views included.

    Synchronisations are copies to the host (`ops.host.to_host` copies on the CPU too, so the count holds on a
    GPU) and operations whose values or shapes the host waits for.
    """
    with _Counter() as counter:
        call()
    return Count(counter.operations, counter.synchronisations)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts dispatched operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.synchronisations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        self.synchronisations += self._waits(func, args, kwargs)
        return func(*args, **kwargs)

    def _waits(self, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        name = func.overloadpacket.__name__
        if name == "_to_copy":  # a copy to the host counts although the tensor is on the host already
            device = kwargs.get("device")
            return device is not None and torch.device(device).type == "cpu"
        return reads_values(name, args, kwargs)


def overhead() -> dict[str, Any]:
    """Measure all figures, which takes about 2 GB of memory and half a minute.

    Returns:
        `machine`; `video`, a description of the videos; and `rows`, one for each figure, with `name`,
        `value`, `unit` and `limit`.
    """
    method = HoliTom(retain_ratio=0.10)
    rows: list[dict[str, Any]] = []

    def row(name: str, value: float | None, unit: str, limit: float) -> None:
        rows.append({"name": name, "value": value, "unit": unit, "limit": limit})

    size = f"{GRID * GRID} x {WIDTH}"
    for frames in (32, 128):
        merge = partial(method.merge, synthetic_video(frames))
        count = count_operations(merge)
        row(f"outer stage, {frames} x {size}: tensor operations", count.operations, "", 200)
        row(f"outer stage, {frames} x {size}: device synchronisations", count.synchronisations, "", 2)
        if frames == 32:
            with threads(2):
                row(
                    f"outer stage, {frames} x {size}, float32, two cores", 1e3 * _seconds(merge, 30), "ms", 40
                )

    features = synthetic_video(1024, NARROW).features
    similarity = neighbour_similarity(features)
    sources = {
        "similarities": lambda: _segments(similarity),
        f"features {NARROW} wide": lambda: _segments(neighbour_similarity(features)),
    }
    with threads(1):
        for source, call in sources.items():
            name = f"segmenting 1024 x {GRID * GRID} given {source}, one core"
            row(f"{name}: extra memory", _extra_megabytes(call), "MB", 64)
            row(name, _seconds(call, 5), "s", 0.5)

    model, tokens = load_model(str(BUNDLED_MODEL), "float32", "cpu")
    inputs = prompt(tokens, load_video(DEMO_VIDEO, BUNDLED_FRAMES), DEMO_QUESTION)
    added = added_synchronisations(model, method, inputs)
    row("attached to the bundled model: synchronisations added to a prefill", added.prefill, "", 4)
    row("attached to the bundled model: synchronisations added to a decoding step", added.step, "", 0)

    machine = f"{processor()}, torch {torch.__version__}"
    video_text = (
        "synthetic: hard cuts, still background with noise, 25% of the tokens moving; retain ratio 0.10"
    )
    return {"machine": machine, "video": video_text, "rows": rows}


def _segments(similarity: Tensor) -> list[tuple[int, int]]:
    return best_segments(static_counts(static_until(similarity > 0.8)))[0]


def _seconds(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call, after one to warm up, since other processes can only slow a call down."""
    call()
    return min(seconds_of(call) for _ in range(repeats))


def seconds_of(call: Callable[[], object], device: torch.device = HOST) -> float:
    """Seconds of one call on `device`."""
    begin = mark(device)
    call()
    return seconds_between(begin, mark(device))


def _extra_megabytes(call: Callable[[], object]) -> float | None:
    """Peak memory of `call` in MB above its level before (Linux; else None)."""
    with peak_memory(HOST) as peak:
        call()
    return peak.megabytes
