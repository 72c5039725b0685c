"""The timings of `holitom bench speed`: one setting in one round, in all rounds, and all settings."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from holitom.bench.loading import Load
from holitom.bench.settings import Setting
from holitom.runtime import Report


class Timing(NamedTuple):
    """One setting in one round, in seconds.

    Attributes:
        load: from the file to the inputs.
        vision: vision tower and projector.
        attention: reading the tower's attention, for methods that need it; 0 where it is part of `vision`.
        outer: merging before the language model.
        inner: merging inside it.
        prefill: language model, without `inner`.
        decoding: all new tokens after the first.
        peak: bytes of memory above what was in use, from `attention` to the last token; None where unknown
            or where the tower ran meanwhile.
    """

    load: Load
    vision: float
    attention: float
    outer: float
    inner: float
    prefill: float
    decoding: float
    peak: int | None

    @property
    def merging(self) -> float:
        """Seconds of merging, before the language model and inside it."""
        return self.outer + self.inner

    @property
    def language(self) -> float:
        """Seconds of the language model up to the first token, inner merging included."""
        return self.prefill + self.inner

    @property
    def ttft(self) -> float:
        """Time to first token, without reading the video file and the processor."""
        return self.vision + self.attention + self.merging + self.prefill

    @property
    def whole(self) -> float:
        """Seconds from the file to the first token."""
        return self.ttft + sum(self.load)

    def to_dict(self) -> dict[str, Any]:
        """The seconds and the memory peak, for JSON."""
        parts = {name: value for name, value in self._asdict().items() if name != "load"}
        return {**self.load._asdict(), **parts, "ttft": self.ttft, "file_to_first_token": self.whole}


class Ratio(NamedTuple):
    """A ratio taken once per round: its median, minimum and maximum."""

    median: float
    least: float
    most: float


@dataclass
class Row:
    """A setting's timings, one per round, and its tokens and bytes, which are the same in every round.

    Attributes:
        computed: share of the vision tower that reuse computes; None without reuse.
    """

    setting: Setting
    timings: list[Timing] = field(default_factory=list)
    visual_tokens: int = 0
    kv_bytes: int = 0
    computed: float | None = None

    def add(self, timing: Timing, report: Report) -> None:
        """Add a round."""
        self.timings.append(timing)
        self.visual_tokens = sum(video.visual for video in report.videos)
        self.kv_bytes = report.kv_bytes
        self.computed = None if report.reuse is None else report.reuse.computed_share

    def median(self, of: Callable[[Timing], float]) -> float:
        return statistics.median(map(of, self.timings))

    def over(self, other: Row, of: Callable[[Timing], float]) -> Ratio:
        """The ratio of `of` for this setting to `of` for `other`, both in the same round."""
        each = [of(mine) / of(its) for mine, its in zip(self.timings, other.timings, strict=True)]
        return Ratio(statistics.median(each), min(each), max(each))

    def share(self, of: Callable[[Timing], float]) -> float:
        """Share of the time to first token."""
        return self.median(lambda timing: of(timing) / timing.ttft)

    @property
    def peak(self) -> int | None:
        """The highest peak of all rounds, in bytes."""
        return max((timing.peak for timing in self.timings if timing.peak is not None), default=None)


@dataclass
class Speed:
    """The result of a measurement.

    Attributes:
        machine: the machine (`machine.describe`), and the model's dtype and attention.
        new_tokens: number of tokens that every setting generated; no answer ends before.
        rows: the settings, full tokens first.
        refused: reasons of the settings that could not run, by title.
        loader: transformers' loader, for full tokens.
        video: number of frames, and number of visual tokens of each frame.
        prompt_tokens: number of tokens of the prompt with full tokens.
        warm_up_round: whether a whole untimed round ran before the timed ones.
        encodings: number of timed runs of the vision tower that settings share.
        vision_peak: bytes of memory that the vision tower took; None where unknown.
    """

    machine: dict[str, Any]
    new_tokens: int
    rows: list[Row]
    refused: dict[str, str]
    loader: str
    video: tuple[int, int] = (0, 0)
    prompt_tokens: int = 0
    warm_up_round: bool = False
    encodings: int = 0
    vision_peak: int | None = None

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.rows[0].timings)

    def decode_rate(self, row: Row) -> float:
        """Tokens per second after the first token."""
        return (self.new_tokens - 1) / row.median(lambda timing: timing.decoding)

    def inner_ratios(self) -> dict[float, Ratio]:
        """By retain ratio, HoliTom's prefill with inner merging over HoliTom w/o M's prefill."""
        found = {(row.setting.name, row.setting.retain_ratio): row for row in self.rows}
        return {
            ratio: row.over(found["holitom-outer", ratio], lambda timing: timing.language)
            for (name, ratio), row in found.items()
            if name == "holitom" and ("holitom-outer", ratio) in found
        }

    def speedups(self, row: Row) -> dict[str, Ratio]:
        """How many times faster than full tokens."""
        full = self.rows[0]
        return {
            "file_to_first_token": full.over(row, lambda timing: timing.whole),
            "ttft": full.over(row, lambda timing: timing.ttft),
            "prefill": full.over(row, lambda timing: timing.language),
            "decoding": full.over(row, lambda timing: timing.decoding),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything that `holitom bench speed --json` prints of it."""
        return {
            "machine": self.machine,
            "frames": self.video[0],
            "tokens_per_frame": self.video[1],
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "rounds": self.rounds,
            "warm_up_round": self.warm_up_round,
            "vision_timings": self.encodings,
            "stock_loader": self.loader,
            "vision_peak_bytes": self.vision_peak,
            "settings": [
                {
                    "setting": row.setting.title,
                    "method": row.setting.name,
                    "retain_ratio": row.setting.retain_ratio,
                    "visual_tokens": row.visual_tokens,
                    "kv_cache_bytes": row.kv_bytes,
                    "peak_bytes": row.peak,
                    "tower_computed": row.computed,
                    "rounds": [timing.to_dict() for timing in row.timings],
                    "merging_share": row.share(lambda timing: timing.merging),
                    "attention_share": row.share(lambda timing: timing.attention),
                    "decode_tokens_per_second": self.decode_rate(row),
                    "speedup": {part: ratio._asdict() for part, ratio in self.speedups(row).items()},
                }
                for row in self.rows
            ],
            "inner_prefill_ratio": {f"{at:g}": ratio._asdict() for at, ratio in self.inner_ratios().items()},
            "refused": self.refused,
        }
