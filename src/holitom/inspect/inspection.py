"""One video and the fates of its visual tokens, as arrays on the host, ready to be drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


class Fate(IntEnum):
    """The fate of a visual token."""

    DROPPED = 0
    KEPT = 1
    CENTER = 2
    JOINED = 3
    STATIC = 4


class Words(NamedTuple):
    """The name of a fate, and its meaning."""

    name: str
    meaning: str


FATES = {
    Fate.KEPT: Words("kept", "sent to the language model as it was"),
    Fate.CENTER: Words("merged into", "sent, with other tokens merged into it"),
    Fate.STATIC: Words("static", "merged over the frames in which it hardly changes"),
    Fate.JOINED: Words("joined", "merged into a similar token"),
    Fate.DROPPED: Words("dropped", "left out"),
}


@dataclass(frozen=True)
class Stage:
    """Visual tokens after one stage, and what the prefill would cost if merging ended there.

    Attributes:
        name: "full", the method's own stages, or `layer k`: from that layer of the language model on.
        tokens: visual tokens, separators apart.
        operations: prefill of all layers by the paper's formula, see `holitom flops`; None: not known.
        kv_bytes: keys and values of visual tokens in all layers; None: not known.
    """

    name: str
    tokens: int
    operations: int | None = None
    kv_bytes: int | None = None


@dataclass(frozen=True, eq=False)
class Reused:
    """The places of a video that the vision tower computed, and the frames that the others are copied from.

    Attributes:
        grid: `(rows, columns)` of the places of a frame: patches, or blocks of patches.
        computed: `[T, rows * columns]` bool, whether a place was computed.
        reference: `[T]` int64, the frame whose results are used at places that were not computed; the frame's
            own index where all were.
    """

    grid: tuple[int, int]
    computed: NDArray[np.bool_]
    reference: Places


@dataclass(frozen=True, eq=False)
class Inspection:
    """One video, `T` rows of `N` tokens each; a token's place is `t * N + n`.

    Attributes:
        title: name of the video.
        method: the method and its settings.
        model: name of the model.
        grid: `(rows, columns)` of the tokens of one row.
        via, into: `[T, N]` int64, see `holitom.tokens.Origins`.
        segments: first and last row (inclusive) of each temporal segment.
        stages: tokens and costs after each stage; the first is "full".
        frames_per_step: number of frames that the model takes as one row of tokens.
        frames: `[T, H, W, 3]` uint8, the pictures to draw on; None: a plain grid.
        numbers: `[T]` int64, the index of each frame in the file; None where it is not known.
        seconds: `[T]` float64, the time of each frame.
        importance: `[T, N]` float32, attention received in the vision tower; None where it was not read.
        similarity: `[T - 1, N]` float32, cosine similarity of each position with itself one frame later.
        threshold: similarity above which the method takes a token for static; None where it has none.
        survivors: by layer of the language model, `[T, N]` bool, the sent tokens that stay from it on.
        question, answer: the question to the model, and its answer.
        reused: the places that the vision tower computed; None without reuse.
        banner: a note on what the model can do, shown above its answers.
    """

    title: str
    method: str
    model: str
    grid: tuple[int, int]
    via: Places
    into: Places
    segments: list[tuple[int, int]]
    stages: list[Stage]
    frames_per_step: int = 1
    frames: NDArray[np.uint8] | None = None
    numbers: Places | None = None
    seconds: NDArray[np.float64] | None = None
    importance: NDArray[np.float32] | None = None
    similarity: NDArray[np.float32] | None = None
    threshold: float | None = None
    survivors: dict[int, NDArray[np.bool_]] | None = None
    question: str | None = None
    answer: str | None = None
    reused: Reused | None = None
    banner: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """`(T, N)`."""
        frames, tokens = self.into.shape
        return frames, tokens

    @property
    def frame_size(self) -> tuple[int, int]:
        """`(height, width)` of a frame to draw on; of a plain grid, its rows and columns."""
        return self.grid if self.frames is None else self.frames.shape[1:3]

    @cached_property
    def size(self) -> Places:
        """`[T, N]` int64, number of tokens that are part of the one sent from a place; 0 where none is."""
        into = self.into[self.into >= 0]
        return np.bincount(into, minlength=self.into.size).reshape(self.into.shape)

    @cached_property
    def fate(self) -> NDArray[np.uint8]:
        """`[T, N]` uint8, the `Fate` of each token."""
        place = np.arange(self.into.size).reshape(self.into.shape)
        fate = np.full(self.into.shape, Fate.JOINED, dtype=np.uint8)
        fate[self.via != place] = Fate.STATIC
        sent = self.into == place
        fate[sent] = np.where(self.size[sent] > 1, Fate.CENTER, Fate.KEPT)
        fate[self.into < 0] = Fate.DROPPED
        return fate

    @cached_property
    def repeats(self) -> NDArray[np.bool_]:
        """`[T, N]` bool, whether a token was merged over time, the merged token's own place included."""
        return np.bincount(self.via.ravel(), minlength=self.via.size)[self.via] > 1

    @cached_property
    def segment_of(self) -> Places:
        """`[T]` int64, the segment of each row."""
        return np.repeat(np.arange(len(self.segments)), [last - first + 1 for first, last in self.segments])

    @property
    def sent(self) -> int:
        """Number of merged tokens that enter the language model, without separators."""
        return int((self.size > 0).sum())

    @property
    def remaining(self) -> int:
        """Number of merged tokens after the last layer that merges, without separators."""
        return int(list(self.survivors.values())[-1].sum()) if self.survivors else self.sent

    @property
    def headline(self) -> str:
        """The numbers of visual tokens, of those sent, and of those left inside the language model."""
        total = self.into.size
        text = f"{total:,} visual tokens become {self.sent:,} ({self.sent / total:.1%})"
        if self.survivors:
            text += f", and {self.remaining:,} from layer {list(self.survivors)[-1]} on"
        return text

    @property
    def hint(self) -> str | None:
        """A hint to ask a question, where only a question shows what is merged; else None."""
        if self.survivors is None and self.question is None and self.sent == self.into.size:
            return "Nothing merges before the language model. Ask a question to see what merges inside it."
        return None

    @cached_property
    def shown(self) -> NDArray[np.uint8] | None:
        """`frames` as they are drawn: brightened where the video is dark, so that kept tokens can be seen."""
        return None if self.frames is None else readable(self.frames)

    def span(self, first: int, last: int | None = None) -> str:
        """Write rows `first..last` as frames counted from 1: "frame 3", "frames 5\N{EN DASH}8"."""
        start = first * self.frames_per_step + 1
        end = ((first if last is None else last) + 1) * self.frames_per_step
        return f"frame {start}" if end == start else f"frames {start}\N{EN DASH}{end}"

    def counts(self, first: int = 0, last: int | None = None) -> dict[Fate, int]:
        """Count the tokens of rows `first..last` by fate."""
        part = self.fate[first : None if last is None else last + 1]
        return {fate: int((part == fate).sum()) for fate in FATES}

    def saved(self, first: int, last: int) -> int:
        """Count the tokens that merging over time saves in the segment `first..last`."""
        via = self.via[first : last + 1]
        return int(via.size - len(np.unique(via)))

    def static(self, first: int, last: int) -> int:
        """Count the positions that were merged over time in the segment `first..last`."""
        return int(self.repeats[first : last + 1].any(0).sum())

    def to_dict(self) -> dict[str, Any]:
        """Collect the figures for JSON; segments are first and last row, counted from 0."""
        return {
            "video": self.title,
            "method": self.method,
            "model": self.model,
            "question": self.question,
            "answer": self.answer,
            "frames": self.shape[0] * self.frames_per_step,
            "steps": self.shape[0],
            "tokens_per_step": self.shape[1],
            "grid": list(self.grid),
            "visual_tokens": int(self.into.size),
            "sent": self.sent,
            "remaining": self.remaining,
            "stages": [asdict(stage) for stage in self.stages],
            "segments": [list(segment) for segment in self.segments],
            "tower_computed_share": None if self.reused is None else float(self.reused.computed.mean()),
            "fates": {FATES[fate].name: count for fate, count in self.counts().items()},
        }

    def _repr_html_(self) -> str:
        draw_html = import_module("holitom.inspect.draw_html")  # by name: that file imports this one
        shown: str = draw_html.embed(self)
        return shown


DARK, FLOOR, MEAN = 64, 48, 110  # of 255


def readable(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brighten frames that are dark on average: no pixel below `FLOOR`, the mean near `MEAN`.

    Args:
        frames: `[T, H, W, 3]` uint8.
    """
    mean = float(frames.mean())
    if mean >= DARK:
        return frames
    aim = (MEAN - FLOOR) / (255 - FLOOR)
    power = min(1.0, np.log(aim) / np.log(max(mean, 1) / 255))
    levels = FLOOR + (255 - FLOOR) * (np.arange(256) / 255) ** power
    brightened: NDArray[np.uint8] = levels.round().astype(np.uint8)[frames]
    return brightened


def stage_name(name: str) -> str:
    """Write the name of a stage in words."""
    known = {
        "full": "all visual tokens",
        "temporal": "after merging in time",
        "spatial": "after merging in space",
    }
    if name.startswith("layer "):
        return f"from {name} on"
    return known.get(name, f"after {name}")
