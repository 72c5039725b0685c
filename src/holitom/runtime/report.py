"""The report of a run: tokens by stage, segments, seconds by stage, KV-cache bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holitom.tokens import Origins
from holitom.tower import ReuseReport

# A point in time: seconds on the host's clock, or an event in the device's queue that is read later.
Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """Record the time on `device`'s own time line, without waiting for the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """Seconds from `start` to `end`; waits for an event `end` that the device has not reached."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start


@dataclass(frozen=True)
class KnownOrigins:
    """Computed origins, called like the function that computes them."""

    origins: Origins

    def __call__(self) -> Origins:
        return self.origins


@dataclass
class VideoReport:
    """The report of one video of one row.

    A step is one frame, or the two frames that Qwen's and GLM's towers encode as one grid of tokens.

    Attributes:
        row: the row of the batch (before beams or returned sequences multiply it).
        steps: number of steps, `T`.
        tokens_per_step: number of tokens of a step, `N`.
        frames_per_step: number of frames of a step.
        sent: number of tokens that went into the language model, with separators.
        outer: visual tokens after each stage before the language model, in order.
        segments: first and last step (inclusive) of each temporal segment.
        frame: `[M]` int64: see `MergedTokens`.
        position: `[M]` int64: see `MergedTokens`.
        size: `[M]` int64: see `MergedTokens`.
        grid: `(rows, columns)` of one step.
        importance: `[T, N]` float32: importance of each token; zero where the method does not read it.
        origins: computes `Origins` when called; None where the method does not record them.
        place: `[sent]` int64: place `t * N + n` of each sent token, -1 for a separator.
        first_number: number of its first sent token among the sent tokens of all videos.
        inner: by layer `k`, numbers of the sent tokens of all videos that stay from `k` on; separators are
            ranked with them and count.
    """

    row: int
    steps: int
    tokens_per_step: int
    frames_per_step: int
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
    def frames(self) -> int:
        """Number of frames (the last of an odd number is doubled where two make a step)."""
        return self.steps * self.frames_per_step

    @property
    def stages(self) -> dict[str, int]:
        """Visual tokens after every stage, in order, without separators; inner stages are named `layer k`."""
        return {**self.outer, **{f"layer {layer}": self.staying(layer) for layer in self.inner}}

    def survivors(self, layer: int) -> Tensor:
        """Indices `[K]` int64, ascending, of the `sent` tokens that stay from `layer` on."""
        number = self.inner[layer] - self.first_number
        return number[(number >= 0) & (number < self.sent)]

    def staying(self, layer: int) -> int:
        """Number of visual tokens that stay from `layer` on, without separators."""
        stay = self.survivors(layer)
        return int((self.place.to(stay.device)[stay] >= 0).sum())

    @property
    def tokens(self) -> int:
        """Visual tokens before any merging, `T * N`."""
        return self.steps * self.tokens_per_step

    @property
    def merged(self) -> int:
        """Visual tokens that the outer stage leaves."""
        return int(self.size.shape[0])

    @property
    def separators(self) -> int:
        """Sent tokens that the model puts between or behind visual tokens (newlines)."""
        return int((self.place < 0).sum())

    @property
    def visual(self) -> int:
        """Visual tokens that went into the language model, without separators."""
        return self.sent - self.separators

    @property
    def remaining(self) -> int:
        """Visual tokens behind the last inner stage, without separators; `visual` without inner stages."""
        return self.staying(max(self.inner)) if self.inner else self.visual

    def to_dict(self) -> dict[str, Any]:
        """The figures of the report as numbers, lists and strings, for JSON."""
        return {
            "row": self.row,
            "frames": self.frames,
            "steps": self.steps,
            "tokens_per_step": self.tokens_per_step,
            "grid": list(self.grid),
            "tokens": self.tokens,
            "visual": self.visual,
            "separators": self.separators,
            "remaining": self.remaining,
            "stages": self.stages,
            "segments": [list(segment) for segment in self.segments],
        }

    def __getstate__(self) -> dict[str, Any]:
        """State for pickles and copies: tensors on the host, and computed origins."""
        state = {
            name: value.cpu() if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        state["inner"] = {layer: numbers.cpu() for layer, numbers in self.inner.items()}
        if self.origins is not None:
            known = self.origins()
            state["origins"] = KnownOrigins(Origins(known.via.cpu(), known.into.cpu()))
        return state

    def __str__(self) -> str:
        parts = [f"{self.tokens}", *(f"{count} ({name})" for name, count in self.stages.items())]
        share = f"{100 * self.visual / self.tokens:.1f}% sent"
        steps = "" if self.frames_per_step == 1 else f" in {self.steps} steps"
        what = "frame" if self.frames_per_step == 1 else "step"
        separators = f" and {self.separators} separators" if self.separators else ""
        return (
            f"{self.frames} frames{steps}, {self.tokens_per_step} tokens a {what}, "
            f"{len(self.segments)} segments: {' -> '.join(parts)}; {share}{separators}"
        )


@dataclass
class Report:
    """The report of the latest forward or `generate` with videos.

    It can be pickled and copied, and `to_dict` gives its figures for JSON.

    Attributes:
        videos: one report for each video, in the order of the rows.
        prompt_tokens: tokens of the longest row, without and with merging.
        kv_bytes: bytes of keys and values that the cache holds now; 0 without a cache.
        kv_bytes_full: bytes of the same cache without merging.
        reuse: report of reuse in the vision tower; None without reuse.
    """

    videos: list[VideoReport]
    prompt_tokens: tuple[int, int] = (0, 0)
    kv_bytes: int = 0
    kv_bytes_full: int = 0
    reuse: ReuseReport | None = None
    _spans: dict[str, list[tuple[Mark, Mark]]] = field(default_factory=dict, repr=False)
    _prefilled: Mark = field(default=0.0, repr=False)
    _decode: tuple[Mark, Mark] | None = field(default=None, repr=False)

    def add(self, stage: str, start: Mark, end: Mark) -> None:
        """Add the time from `start` to `end` to `stage`."""
        self._spans.setdefault(stage, []).append((start, end))
        if stage == "prefill":
            self._prefilled = end

    def decoded(self, end: Mark) -> None:
        """Set the end of decoding, which begins at the end of the prefill."""
        self._decode = (self._prefilled, end)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds in `vision` (tower and projector), `merging`, `prefill` (language model) and `decoding`.

        Prefill does not include inner stages, which are in merging. Reading this property waits for the
        device; recording times does not.
        """
        spent = {stage: self._spent(stage) for stage in ("vision", "merging", "prefill")}
        inner = self.inner_seconds
        spent["merging"] += inner
        spent["prefill"] -= inner
        spent["decoding"] = seconds_between(*self._decode) if self._decode else 0.0
        return spent

    def to_dict(self) -> dict[str, Any]:
        """The figures of the report as numbers, lists and strings, for JSON."""
        return {
            "videos": [video.to_dict() for video in self.videos],
            "prompt_tokens": list(self.prompt_tokens),
            "seconds": self.seconds,
            "kv_bytes": self.kv_bytes,
            "kv_bytes_full": self.kv_bytes_full,
            "reuse": None if self.reuse is None else self.reuse.to_dict(),
        }

    def __getstate__(self) -> dict[str, Any]:
        """State for pickles and copies: seconds instead of a device's events."""
        spans = {
            stage: [(0.0, seconds_between(*span)) for span in spans] for stage, spans in self._spans.items()
        }
        decode = None if self._decode is None else (0.0, seconds_between(*self._decode))
        return {**vars(self), "_spans": spans, "_prefilled": 0.0, "_decode": decode}

    @property
    def inner_seconds(self) -> float:
        """The part of `merging` in inner stages, in seconds."""
        return self._spent("inner")

    def _spent(self, stage: str) -> float:
        return sum(seconds_between(start, end) for start, end in self._spans.get(stage, []))

    def __str__(self) -> str:
        lines = [f"video {index} (row {video.row}): {video}" for index, video in enumerate(self.videos)]
        full, sent = self.prompt_tokens
        lines.append(f"prompt: {full} -> {sent} tokens")
        if self.reuse is not None:
            lines.append(str(self.reuse))
        times = self.seconds
        lines.append("seconds: " + ", ".join(f"{stage} {value:.3f}" for stage, value in times.items()))
        if self.kv_bytes:
            lines.append(
                f"KV cache: {self.kv_bytes / 1e6:.2f} of {self.kv_bytes_full / 1e6:.2f} MB "
                f"({100 * self.kv_bytes / self.kv_bytes_full:.1f}%)"
            )
        return "\n".join(lines)
