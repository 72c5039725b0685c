"""Videos between the vision tower and the language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import cache
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor

from holitom.contract import Merges
from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter, EncodedImages, SentTokens
from holitom.runtime.layout import Placement
from holitom.runtime.precision import without_autocast
from holitom.runtime.report import Mark, Report, VideoReport
from holitom.tokens import MergedTokens, VideoTokens
from holitom.tower import ReuseReport


@dataclass
class Encoded:
    """What merging needs of some encoded videos, and what it has made of them so far.

    It is a field of the result of `get_video_features` (see `carrying`): `generate` may encode long before
    the forward and repeat the result for beams, so videos are merged only when the language model asks, and
    once.

    Attributes:
        owner: the run that encoded them; no other may use what is merged here.
        encodings: what was encoded, as the adapter told when it was.
        videos: the videos among it, once a prompt has told where they are.
        vision: when each call of the encoder for them began and ended.
        merged, sent: what each video becomes; empty until the language model asks.
        report: what is reported of them.
        reuse: what the vision tower computed of them; None where it ran as ever.
    """

    owner: object
    encodings: list[VideoTokens]
    vision: list[tuple[Mark, Mark]]
    videos: list[VideoTokens] = field(default_factory=list)
    merged: list[MergedTokens] = field(default_factory=list)
    sent: list[SentTokens] = field(default_factory=list)
    report: Report | None = None
    reuse: ReuseReport | None = None
    _question: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoded:
        """A copy of the features that carry this has it too: their videos are merged once for both."""
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Features that are saved carry nothing: the run that would merge them is not saved with them."""
        return _nothing, ()

    @property
    def asked(self) -> int:
        """The column behind the question that these videos came with."""
        return 0 if self._question is None else self._question.shape[1]

    def begins(self, input_ids: Tensor, cached: bool) -> bool:
        """Whether `input_ids` `[B, L]` are a new question.

        Without a cache every step of `generate` brings the videos again, with the question's ids and what is
        answered so far; inner merging then still asks the question.
        """
        if not cached and self._question is not None and input_ids.shape[1] > self.asked:
            start = input_ids[:, : self.asked]
            if start.shape == self._question.shape and torch.equal(start, self._question):
                return False
        self._question = input_ids
        return True

    def locate(self, adapter: Adapter, given: dict[str, Any]) -> None:
        """Fill in `videos`, unless they are, for a forward of the trunk with arguments `given`."""
        if not self.videos:
            self.videos = adapter.locate(self.encodings, given)

    def merge(self, method: Merges, adapter: Adapter) -> None:
        """Fill in `merged` and `sent`, unless they are; a video that several rows share is merged once."""
        if self.sent:
            return
        distinct = {id(video): video for video in self.videos}
        with without_autocast(self.videos[0].features.device):
            merged = {key: method.merge(video) for key, video in distinct.items()}
        if any(merged[key].streams is None for key, video in distinct.items() if video.streams is not None):
            raise UnsupportedUsageError(
                f"{type(method).__name__}.merge gives no streams, which this model has besides its features; "
                "merge VideoTokens.streams with the weights of the features (methods.parts.assemble does)"
            )
        sent = {key: adapter.send(video, merged[key]) for key, video in distinct.items()}
        self.merged = [merged[id(video)] for video in self.videos]
        self.sent = [sent[id(video)] for video in self.videos]


def with_left(videos: list[Any], stays: Tensor) -> list[Any]:
    """What an adapter's `videos` returned, told which frames the tower has left.

    Args:
        videos: `VideoTokens`, or one `EncodedImages`.
        stays: `[F]` bool on the host, of all frames and images of the call.
    """
    if isinstance(videos[0], EncodedImages):
        tokens = torch.tensor([prod(size) for size in videos[0].sizes])
        return [replace(videos[0], left=stays.repeat_interleave(tokens))]
    own = torch.split(stays, [len(video.features) for video in videos])
    return [
        video if bool(left.all()) else replace(video, left=tuple(left.nonzero()[:, 0].tolist()))
        for video, left in zip(videos, own, strict=True)
    ]


def _nothing() -> None:
    return None


FIELD = "holitom"
"""The field of an encoder's result that holds its `Encoded`."""


def carrying(output: Any, encoded: Encoded) -> Any:
    """The encoder's `output` with `encoded` as a field of its own.

    A field survives what rebuilds a model's arguments from their parts (accelerate's `send_to_device`,
    pytrees, `dataclasses.replace`), which an attribute that is set on the object does not.
    """
    values = {each.name: getattr(output, each.name) for each in fields(output)}
    return _rebuilt(type(output), {**values, FIELD: encoded})


def _rebuilt(kind: Any, values: dict[str, Any]) -> Any:
    """The encoder's output of class `kind` with these `values`, among them an `Encoded` or none."""
    if values[FIELD] is not None:
        return _with_field(kind)(**values)
    return kind(**{name: value for name, value in values.items() if name != FIELD})


def carried(output: Any) -> Encoded | None:
    """The `Encoded` of an encoder's `output`; None where it carries none."""
    encoded: Encoded | None = getattr(output, FIELD, None)
    return encoded


@cache
def _with_field(kind: Any) -> Any:
    """The class of encoder outputs `kind` with the field for an `Encoded`."""
    if any(each.name == FIELD for each in fields(kind)):
        return kind

    def reduce(self: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuilt, (kind, {each.name: getattr(self, each.name) for each in fields(self)})

    own = [(FIELD, Any, field(default=None, repr=False))]
    made = make_dataclass(kind.__name__, own, bases=(kind,), namespace={"__reduce__": reduce})
    made.__module__ = __name__
    return made


@dataclass(frozen=True)
class Assignment:
    """Which video stands where.

    Attributes:
        places: row, video and `[slots]` columns on the host, of every video of every row.
        copies: how many times `generate` has repeated each row (beams, returned sequences).
    """

    places: list[tuple[int, int, Tensor]]
    copies: int

    def placements(self, sent: list[SentTokens]) -> list[Placement]:
        """Every video of every row with what it sends."""
        features = [
            one.features if one.streams is None else torch.cat([one.features, one.streams], dim=-1)
            for one in sent
        ]
        return [Placement(row, at, sent[video].slot, features[video]) for row, video, at in self.places]

    def numbers(self, sent: list[SentTokens], rows: int, device: torch.device) -> list[Tensor]:
        """For each row `[V]`: the number of each sent token among those of all videos, in their order; -1 in
        repeated rows, so that none counts twice."""
        first = first_numbers(sent)
        own: list[list[Tensor]] = [[] for _ in range(rows)]
        for row, video, _ in self.places:
            slot = sent[video].slot
            number = first[video] + torch.arange(len(slot), device=slot.device)
            own[row].append(torch.full_like(slot, -1) if row % self.copies else number)
        return [torch.cat(o) if o else torch.empty(0, dtype=torch.int64, device=device) for o in own]

    def videos(self, sent: list[SentTokens], rows: int, device: torch.device) -> list[Tensor]:
        """For each row `[V]`: which of the row's videos, from 0, each sent token is of; -1: a separator."""
        own: list[list[Tensor]] = [[] for _ in range(rows)]
        for row, video, _ in self.places:
            slot, place = sent[video].slot, sent[video].place
            video_of_row = torch.full_like(slot, len(own[row]))
            own[row].append(video_of_row if place is None else video_of_row.masked_fill(place < 0, -1))
        return [torch.cat(o) if o else torch.empty(0, dtype=torch.int64, device=device) for o in own]

    def guarded(self, sent: list[SentTokens], rows: int) -> list[int]:
        """For each row, how many videos a ranking of its tokens might leave nothing of: all, unless there is
        one, and nothing but it."""
        own: list[list[int]] = [[] for _ in range(rows)]
        for row, video, _ in self.places:
            own[row].append(video)
        return [len(o) if len(o) > 1 or any(sent[v].place is not None for v in o) else 0 for o in own]


def first_numbers(sent: list[SentTokens]) -> list[int]:
    """The number of each video's first sent token among those of all videos."""
    return [0, *accumulate(len(one.slot) for one in sent)][:-1]


def assign(holders: Tensor, slots: list[int]) -> Assignment:
    """Give every run of placeholders its video, in reading order.

    Args:
        holders: `[B, L]` bool on the host: video placeholders.
        slots: placeholders of each video, in order.

    Raises:
        UnsupportedUsageError: the placeholders of some row are not those of whole videos.
    """
    counts = holders.sum(dim=1).tolist()
    total = sum(slots)
    copies, rest = divmod(sum(counts), total)
    places = []
    video = 0
    for first in range(0, len(counts), max(copies, 1)):
        offset = 0
        while offset < counts[first] and video < len(slots):
            for row in range(first, first + copies):
                at = holders[row].nonzero().squeeze(1)[offset : offset + slots[video]]
                places.append((row, video, at))
            offset += slots[video]
            video += 1
        rest += abs(offset - counts[first])
    if rest or not copies or video != len(slots):
        raise UnsupportedUsageError(
            f"the rows hold {counts} video placeholders, which are not whole videos of {slots} tokens; pass "
            "the ids that the processor made for these videos (with a cache: for the new part of the prompt)"
        )
    return Assignment(places, copies)


def report_on(encoded: Encoded, assignment: Assignment, frames_per_step: int) -> Report:
    """The report of freshly merged videos, whose tower makes one step of `frames_per_step` frames."""
    rows = {video: row // assignment.copies for row, video, _ in assignment.places}
    return Report(
        [
            VideoReport(
                row=rows[index],
                steps=video.features.shape[0],
                tokens_per_step=video.features.shape[1],
                frames_per_step=frames_per_step,
                sent=sent.slot.shape[0],
                outer=dict(merged.stages),
                segments=list(merged.segments),
                frame=merged.frame,
                position=merged.position,
                size=merged.size,
                grid=video.grid,
                importance=video.importance,
                origins=merged.origins,
                place=sent.slot if sent.place is None else sent.place,
                first_number=first,
            )
            for index, (video, merged, sent, first) in enumerate(
                zip(encoded.videos, encoded.merged, encoded.sent, first_numbers(encoded.sent), strict=True)
            )
        ],
        reuse=encoded.reuse,
    )
