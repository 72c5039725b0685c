"""Hold videos between the vision tower and the language model, merge them, and find their placeholders."""

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
from holitom.ops.host import HOST
from holitom.runtime.layout import Placement
from holitom.runtime.precision import without_autocast
from holitom.runtime.report import Mark, Report, VideoReport
from holitom.tokens import MergedTokens, VideoTokens
from holitom.tower import ReuseReport


@dataclass(frozen=True)
class MergedVideos:
    """The videos of one prompt before and after merging.

    Attributes:
        videos: the videos, in reading order.
        merged: the merged tokens of each video.
        sent: the tokens that each video sends into the language model.
        inference: whether they were merged inside `torch.inference_mode`, whose tensors nothing else can use.
    """

    videos: list[VideoTokens]
    merged: list[MergedTokens]
    sent: list[SentTokens]
    inference: bool

    @property
    def serves(self) -> bool:
        """Whether the present forward can use them: gradients are those of a merge of its own."""
        return not torch.is_grad_enabled() and (not self.inference or torch.is_inference_mode_enabled())


@dataclass
class Encoded:
    """The videos of one call of the video encoder.

    It is a field of the result of `get_video_features` (see `carrying`). `generate` may encode long before
    the forward, and repeats the result for beams, so the first forward of the language model merges the
    videos. Later forwards that bring the same videos use what was merged then. Several threads may share it:
    what it remembers is replaced as a whole.

    Attributes:
        owner: the run that encoded the videos; another run may not use the merged tokens.
        encodings: the adapter's reading of the encoder's result.
        vision: beginning and end of each call of the encoder.
        report: the latest report of the videos; None until the first forward.
        reuse: the share that the vision tower computed; None where it ran without reuse.
        features: the features that the encoder returned, see `versioned`; empty: they are not checked.
    """

    owner: object
    encodings: list[VideoTokens]
    vision: list[tuple[Mark, Mark]]
    report: Report | None = None
    reuse: ReuseReport | None = None
    features: list[tuple[Tensor, int | None]] = field(default_factory=list)
    _located: tuple[list[Tensor], list[VideoTokens]] | None = None
    _merged: MergedVideos | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoded:
        """Return itself: a copy of the features shares it, so that their videos are merged once for both."""
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Pickle as None: the run that would merge the videos is not saved with their features."""
        return _nothing, ()

    def made(self, output: Any) -> bool:
        """Whether the features in an encoder's `output` are those that the encoder returned.

        Copies are compared by their values, which takes a device synchronisation for each. Other numbers or
        shapes are those of rows that `generate` repeats, or are checked with the prompt's placeholders.
        """
        now = tensors_in(output.pooler_output)
        if len(now) != len(self.features):
            return True
        for (own, version), given in zip(self.features, now, strict=True):
            if given is own:
                if version != _version(own):
                    return False
            elif given.shape == own.shape and not _equal(own.to(given), given):
                return False
        return True

    def locate(self, adapter: Adapter, given: dict[str, Any], asked: int) -> list[VideoTokens]:
        """Find the videos in a prompt, in reading order; none where it shows them as images.

        Args:
            adapter: the model's adapter.
            given: arguments of the trunk's forward by name, with `input_ids` `[B, L]`.
            asked: number of columns up to the end of the question.
        """
        ids: Tensor = given["input_ids"]
        if asked < ids.shape[1]:
            given = {**given, "input_ids": ids[:, :asked]}
        read, known = adapter.located_by(given), self._located
        if known is None or not (len(read) == len(known[0]) and all(map(torch.equal, read, known[0]))):
            known = [each.clone() for each in read], adapter.locate(self.encodings, read)
            self._located = known
        return known[1]

    def merge(self, method: Merges, adapter: Adapter, videos: list[VideoTokens]) -> MergedVideos:
        """Merge `videos`, a result of `locate`; a video that several rows share is merged once.

        Raises:
            UnsupportedUsageError: the model has streams and the method merges none.
        """
        known = self._merged
        if known is not None and known.videos is videos and known.serves:
            return known
        distinct = {id(video): video for video in videos}
        with without_autocast(videos[0].features.device):
            merged = {key: method.merge(video) for key, video in distinct.items()}
        if any(merged[key].streams is None for key, video in distinct.items() if video.streams is not None):
            raise UnsupportedUsageError(
                f"{type(method).__name__}.merge gives no streams, which this model has besides its features; "
                "merge VideoTokens.streams with the weights of the features (methods.parts.assemble does)"
            )
        sent = {key: adapter.send(video, merged[key]) for key, video in distinct.items()}
        self._merged = MergedVideos(
            videos,
            [merged[id(video)] for video in videos],
            [sent[id(video)] for video in videos],
            torch.is_inference_mode_enabled(),
        )
        return self._merged


def with_left(videos: list[Any], stays: Tensor) -> list[Any]:
    """Mark the frames that the tower kept after merging frames.

    Args:
        videos: the result of an adapter's `videos`: `VideoTokens`, or one `EncodedImages`.
        stays: `[F]` bool on the host: which frames and images of the call the tower kept.
    """
    if isinstance(videos[0], EncodedImages):
        tokens = torch.tensor([prod(size) for size in videos[0].sizes], device=HOST)
        return [replace(videos[0], left=stays.repeat_interleave(tokens))]
    own = torch.split(stays, [len(video.features) for video in videos])
    return [
        video if bool(left.all()) else replace(video, left=tuple(left.nonzero()[:, 0].tolist()))
        for video, left in zip(videos, own, strict=True)
    ]


def versioned(features: Any) -> list[tuple[Tensor, int | None]]:
    """List the tensors in an encoder's `pooler_output` with their versions."""
    return [(each, _version(each)) for each in tensors_in(features)]


def tensors_in(features: Any) -> list[Tensor]:
    """List the tensors in an encoder's `pooler_output`: one, or those of a sequence."""
    return [features] if isinstance(features, Tensor) else list(features)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values; NaN equals NaN."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _version(tensor: Tensor) -> int | None:
    """The number of writes to `tensor`; None for a tensor of `torch.inference_mode`, which has none."""
    return None if tensor.is_inference() else tensor._version


def _nothing() -> None:
    return None


FIELD = "holitom"
"""Name of the field of an encoder's result that holds its `Encoded`."""


def carrying(output: Any, encoded: Encoded) -> Any:
    """Return the encoder's `output` with `encoded` as one more field.

    Code that rebuilds a model's arguments from their parts (accelerate's `send_to_device`, pytrees,
    `dataclasses.replace`) keeps a field. It would lose an attribute that was set on the object.
    """
    values = {each.name: getattr(output, each.name) for each in fields(output)}
    return _rebuilt(type(output), {**values, FIELD: encoded})


def _rebuilt(kind: Any, values: dict[str, Any]) -> Any:
    """Make an encoder's output of class `kind`; `values`: its fields by name and, under `FIELD`, an `Encoded`
    or None."""
    if values[FIELD] is not None:
        return _with_field(kind)(**values)
    return kind(**{name: value for name, value in values.items() if name != FIELD})


def carried(output: Any) -> Encoded | None:
    """Return the `Encoded` of an encoder's `output`; None where it has none."""
    encoded: Encoded | None = getattr(output, FIELD, None)
    return encoded


@cache
def _with_field(kind: Any) -> Any:
    """Make the class of encoder outputs that has the fields of `kind` and one for an `Encoded`."""
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
    """The placeholders of every video.

    Attributes:
        places: for every video of every row its row, its index and its columns, `[slots]` int64 on the host.
        copies: number of times that `generate` repeats each row (beams, returned sequences).
    """

    places: list[tuple[int, int, Tensor]]
    copies: int

    def placements(self, sent: list[SentTokens]) -> list[Placement]:
        """Return every video of every row with the tokens that it sends."""
        features = [
            one.features if one.streams is None else torch.cat([one.features, one.streams], dim=-1)
            for one in sent
        ]
        return [Placement(row, at, sent[video].slot, features[video]) for row, video, at in self.places]

    def numbers(self, sent: list[SentTokens], rows: int, device: torch.device) -> list[Tensor]:
        """Number the sent tokens of all videos, in the videos' order.

        Returns:
            For each row `[V]` int64: the number of each of its sent tokens; -1 in repeated rows, so that no
            token counts twice.
        """
        first = first_numbers(sent)
        own: list[list[Tensor]] = [[] for _ in range(rows)]
        for row, video, _ in self.places:
            slot = sent[video].slot
            number = first[video] + torch.arange(len(slot), device=slot.device)
            own[row].append(torch.full_like(slot, -1) if row % self.copies else number)
        return [torch.cat(o) if o else torch.empty(0, dtype=torch.int64, device=device) for o in own]

    def videos(self, sent: list[SentTokens], rows: int, device: torch.device) -> list[Tensor]:
        """Return for each row `[V]` int64 the video of each sent token, from 0 in each row; -1: separator."""
        own: list[list[Tensor]] = [[] for _ in range(rows)]
        for row, video, _ in self.places:
            slot, place = sent[video].slot, sent[video].place
            video_of_row = torch.full_like(slot, len(own[row]))
            own[row].append(video_of_row if place is None else video_of_row.masked_fill(place < 0, -1))
        return [torch.cat(o) if o else torch.empty(0, dtype=torch.int64, device=device) for o in own]

    def guarded(self, sent: list[SentTokens], rows: int) -> list[int]:
        """Return for each row the number of videos that inner merging must keep a token of.

        A row that holds one video and no separator needs no guard: its ranking keeps tokens of that video.
        """
        own: list[list[int]] = [[] for _ in range(rows)]
        for row, video, _ in self.places:
            own[row].append(video)
        return [len(o) if len(o) > 1 or any(sent[v].place is not None for v in o) else 0 for o in own]


def first_numbers(sent: list[SentTokens]) -> list[int]:
    """Return the number of each video's first sent token, counted over all videos."""
    return [0, *accumulate(len(one.slot) for one in sent)][:-1]


def assign(holders: Tensor, slots: list[int]) -> Assignment:
    """Assign videos to runs of placeholders, in reading order.

    Args:
        holders: `[B, L]` bool on the host: video placeholders.
        slots: number of placeholders of each video, in order.

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


def report_on(
    found: MergedVideos, assignment: Assignment, frames_per_step: int, reuse: ReuseReport | None
) -> Report:
    """Report on newly merged videos.

    Args:
        found: the videos.
        assignment: their placeholders.
        frames_per_step: number of frames that the tower encodes together.
        reuse: the share that the vision tower computed; None where it ran without reuse.
    """
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
                zip(found.videos, found.merged, found.sent, first_numbers(found.sent), strict=True)
            )
        ],
        reuse=reuse,
    )
