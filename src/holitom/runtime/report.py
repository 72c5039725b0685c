"""What a run reports: tokens by stage, segments, seconds by stage, KV-cache bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holitom.tokens import Origins

if TYPE_CHECKING:
    from holitom.inspect.draw_png import TokenMap

# A point in time: seconds on the host's clock, or an event in the device's queue that is read when asked for.
Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """Now, on `device`'s own time line; never waits for the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """Seconds from `start` to `end`; waits for `end` if it is still to come."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start


@dataclass
class VideoReport:
    """One video of one row.

    Attributes:
        row: the row of the batch (before beams or returned sequences multiply it).
        frames: frames `T`.
        tokens_per_frame: tokens `N` of a frame.
        sent: tokens that went into the language model, separators included.
        outer: tokens after each stage before the language model, in order.
        segments: first and last frame of each temporal segment.
        frame, position, size: of each merged token (see `MergedTokens`).
        grid: `(rows, columns)` of one frame.
        importance: `[T, N]`: what the vision tower attends to; all zero where the method does not read it.
        origins: where every token went, worked out when called; None where the method does not say.
        place: `[sent]`: place `t * N + n` of each token that went into the language model, -1 a separator.
        first_number: number of its first sent token among those of all videos.
        inner: by layer `k`, the numbers of all videos' tokens that stay from there on; separators compete and
            count.
    """

    row: int
    frames: int
    tokens_per_frame: int
    sent: int
    outer: dict[str, int]
    segments: list[tuple[int, int]]
    frame: Tensor = field(repr=False)
    position: Tensor = field(repr=False)
    size: Tensor = field(repr=False)
    grid: tuple[int, int]
    importance: Tensor = field(repr=False)
    origins: Callable[[], Origins] | None = field(repr=False)
    place: Tensor = field(repr=False)
    first_number: int = field(repr=False)
    inner: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def stages(self) -> dict[str, int]:
        """Tokens after every stage, in order; those inside the language model are named `layer k`."""
        return {**self.outer, **{f"layer {layer}": len(self.survivors(layer)) for layer in self.inner}}

    def survivors(self, layer: int) -> Tensor:
        """`[K]` int64, ascending: which of its `sent` tokens stay from `layer` of the language model on."""
        number = self.inner[layer] - self.first_number
        return number[(number >= 0) & (number < self.sent)]

    @property
    def tokens(self) -> int:
        """Visual tokens before any merging, `T * N`."""
        return self.frames * self.tokens_per_frame

    @property
    def merged(self) -> int:
        """Merged tokens, separators not included."""
        return int(self.size.shape[0])

    def __str__(self) -> str:
        parts = [f"{self.tokens}", *(f"{count} ({name})" for name, count in self.stages.items())]
        share = f"{100 * self.merged / self.tokens:.1f}% sent"
        return (
            f"{self.frames} frames x {self.tokens_per_frame} tokens, {len(self.segments)} segments: "
            f"{' -> '.join(parts)}; {share}"
        )


@dataclass
class Report:
    """The most recent forward or `generate` that carried videos.

    Attributes:
        videos: one report a video, in the order of the rows.
        prompt_tokens: tokens of the longest row as the caller sent it, and as the language model got it.
        kv_bytes: bytes of keys and values that the cache now holds (0 without a cache).
        kv_bytes_full: what they would be without merging.
    """

    videos: list[VideoReport]
    prompt_tokens: tuple[int, int] = (0, 0)
    kv_bytes: int = 0
    kv_bytes_full: int = 0
    _spans: dict[str, list[tuple[Mark, Mark]]] = field(default_factory=dict, repr=False)
    _decode: tuple[Mark, Mark] | None = field(default=None, repr=False)

    def add(self, stage: str, start: Mark, end: Mark) -> None:
        """Count the time from `start` to `end` for `stage`."""
        self._spans.setdefault(stage, []).append((start, end))

    def decoded(self, start: Mark, end: Mark) -> None:
        """Decoding has gone on from `start` (the end of prefill) to `end`."""
        self._decode = (start, end)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds in `vision` (tower and projector), `merging`, `prefill` (language model) and `decoding`.

        Prefill does not count what was merged meanwhile. Reading this waits for the device; recording does
        not.
        """
        spent = {stage: self._spent(stage) for stage in ("vision", "merging", "prefill")}
        inner = self.inner_seconds
        spent["merging"] += inner
        spent["prefill"] -= inner
        spent["decoding"] = seconds_between(*self._decode) if self._decode else 0.0
        return spent

    @property
    def inner_seconds(self) -> float:
        """Of `merging`, the seconds spent inside the language model."""
        return self._spent("inner")

    def _spent(self, stage: str) -> float:
        return sum(seconds_between(start, end) for start, end in self._spans.get(stage, []))

    def plot(self, frames: Any = None, video: int = 0) -> TokenMap:
        """What became of each token, as a matplotlib figure (`holitom[plots]`).

        Args:
            frames: `[F, H, W, 3]` uint8: the frames that the processor got, to draw on; a run does not hold
                them. None: a plain grid.
            video: which of `videos`.

        Raises:
            ImportError: matplotlib is not installed.
            UnsupportedUsageError: the method does not say where tokens went.
        """
        from holitom.inspect import inspection_of, token_map

        return token_map(inspection_of(self.videos[video], frames))

    def __str__(self) -> str:
        lines = [f"video {index} (row {video.row}): {video}" for index, video in enumerate(self.videos)]
        full, sent = self.prompt_tokens
        lines.append(f"prompt: {full} -> {sent} tokens")
        times = self.seconds
        lines.append("seconds: " + ", ".join(f"{stage} {value:.3f}" for stage, value in times.items()))
        if self.kv_bytes:
            lines.append(
                f"KV cache: {self.kv_bytes / 2**20:.1f} MiB of {self.kv_bytes_full / 2**20:.1f} MiB "
                f"({100 * self.kv_bytes / self.kv_bytes_full:.1f}%)"
            )
        return "\n".join(lines)
