"""Runs of one session as plain numbers, which keep no model and no video in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from holitom.ask import Timed
from holitom.web.answering import Request

MOST_RUNS = 50  # of a session


@dataclass(frozen=True)
class Figures:
    """One answer and its costs.

    Attributes:
        text: the answer.
        new_tokens: number of its tokens.
        tokens: number of visual tokens that entered the language model.
        remaining: number of visual tokens after the last merge inside it.
        layer: first layer that holds only `remaining` tokens; None where nothing merged inside.
        parts: seconds of each part up to the first token, in order, see `holitom.ask.Timed.parts`.
        rate: tokens per second after the first; None for answers of one token.
        cache: bytes of the KV cache.
        computed: share of the frames that the vision tower computed; None without reuse.
    """

    text: str
    new_tokens: int
    tokens: int
    remaining: int
    layer: int | None
    parts: dict[str, float]
    rate: float | None
    cache: int
    computed: float | None = None

    @property
    def first(self) -> float:
        """Seconds to the first token: vision tower, merging and prefill."""
        return sum(self.parts[part] for part in ("vision", "merging", "prefill"))

    @property
    def from_file(self) -> float:
        """Seconds from opening the file to the first token."""
        return sum(self.parts.values())

    @classmethod
    def of(cls, timed: Timed) -> Figures:
        """Collect the figures of an answer."""
        answer = timed.answer
        reuse = answer.report.reuse
        return cls(
            text=answer.text,
            new_tokens=answer.new_tokens,
            tokens=answer.visual_tokens,
            remaining=answer.remaining_tokens,
            layer=answer.last_layer,
            parts=timed.parts,
            rate=answer.decode_tokens_per_second,
            cache=answer.report.kv_bytes,
            computed=None if reuse is None else reuse.computed_share,
        )


@dataclass(frozen=True)
class Ran:
    """One request of the session and both its answers."""

    request: Request
    merged: Figures
    full: Figures

    @property
    def same(self) -> bool:
        """Whether both answers are the same."""
        return self.merged.text == self.full.text


History = tuple[Ran, ...]


def add(history: History, ran: Ran) -> History:
    """Append a run to a history, without its oldest run beyond `MOST_RUNS`."""
    return (*history, ran)[-MOST_RUNS:]


@dataclass(frozen=True)
class Times:
    """Medians over the runs of one request.

    Attributes:
        runs: number of runs.
        first: seconds to the first token, merged and full.
        from_file: seconds from the file to the first token, merged and full.
        sooner: time to first token of full tokens divided by that of merged tokens.
        parts: seconds of each part up to the first token, merged and full.
    """

    runs: int
    first: tuple[float, float]
    from_file: tuple[float, float]
    sooner: float
    parts: dict[str, tuple[float, float]]


def times(history: History, request: Request) -> Times:
    """Take the medians over the session's runs of `request`; there is at least one."""
    runs = [ran for ran in history if ran.request == request]

    def medians(of: Callable[[Figures], float]) -> tuple[float, float]:
        return median(of(ran.merged) for ran in runs), median(of(ran.full) for ran in runs)

    return Times(
        runs=len(runs),
        first=medians(lambda one: one.first),
        from_file=medians(lambda one: one.from_file),
        sooner=median(ran.full.first / ran.merged.first for ran in runs),
        parts={
            part: (
                median(ran.merged.parts[part] for ran in runs),
                median(ran.full.parts[part] for ran in runs),
            )
            for part in runs[0].merged.parts
        },
    )
