"""The runs of one session: plain numbers, so that nothing of a model or a video is kept."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from holitom.ask import Answer
from holitom.web.answering import Request

MOST_RUNS = 50  # of a session that are kept


@dataclass(frozen=True)
class Figures:
    """One answer and what it cost.

    Attributes:
        text: the answer.
        new_tokens: its tokens.
        tokens: visual tokens that went into the language model.
        remaining: of these, those behind the last merge inside it.
        layer: from which on; None where nothing merged inside.
        first: seconds in the vision tower, merging and the prefill.
        from_file: seconds from opening the file to the first token.
        rate: tokens a second after the first; None for answers of one token.
        cache: bytes of keys and values.
        computed: share of the frames that the vision tower computed; None without reuse.
    """

    text: str
    new_tokens: int
    tokens: int
    remaining: int
    layer: int | None
    first: float
    from_file: float
    rate: float | None
    cache: int
    computed: float | None = None

    @classmethod
    def of(cls, answer: Answer, read_seconds: float) -> Figures:
        """The figures of an answer and of the seconds from opening the file to its prompt."""
        reuse = answer.report.reuse
        return cls(
            text=answer.text,
            new_tokens=answer.new_tokens,
            tokens=answer.visual_tokens,
            remaining=answer.remaining_tokens,
            layer=answer.last_layer,
            first=answer.time_to_first_token,
            from_file=read_seconds + answer.time_to_first_token,
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
        """Whether merging left the answer as it is."""
        return self.merged.text == self.full.text


History = tuple[Ran, ...]


def add(history: History, ran: Ran) -> History:
    """The history with one more run, the oldest left out beyond `MOST_RUNS`."""
    return (*history, ran)[-MOST_RUNS:]


@dataclass(frozen=True)
class Times:
    """Medians over the runs of one request, in seconds, merged and full; `runs` is how many there were."""

    runs: int
    first: tuple[float, float]
    from_file: tuple[float, float]


def times(history: History, request: Request) -> Times:
    """The times of all runs of `request` in the session."""
    runs = [ran for ran in history if ran.request == request]
    sides = [(ran.merged, ran.full) for ran in runs]
    return Times(
        len(runs),
        (median(merged.first for merged, _ in sides), median(full.first for _, full in sides)),
        (median(merged.from_file for merged, _ in sides), median(full.from_file for _, full in sides)),
    )
