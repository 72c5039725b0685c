"""Hold videos between the vision tower and the language model, and merge them once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holitom.contract import Merges
from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.models.values import SentTokens
from holitom.runtime.encoder_output import FIELD, Features, unchanged
from holitom.runtime.precision import without_autocast
from holitom.runtime.report import Mark, Report
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

    It is a field of the result of `get_video_features` (see `encoder_output.py`). `generate` may encode long
    before the forward, and repeats the result for beams, so the first forward of the language model merges
    the videos. Later forwards that bring the same videos use what was merged then. Several threads may share
    it: what it remembers is replaced as a whole.

    Attributes:
        owner: the run that encoded the videos; another run may not use the merged tokens.
        encodings: the adapter's reading of the encoder's result.
        vision: beginning and end of each call of the encoder.
        report: the latest report of the videos; None until the first forward.
        reuse: the share that the vision tower computed; None where it ran without reuse.
        features: the features that the encoder returned; empty: they are not checked.
    """

    owner: object
    encodings: list[VideoTokens]
    vision: list[tuple[Mark, Mark]]
    report: Report | None = None
    reuse: ReuseReport | None = None
    features: Features = field(default_factory=list)
    _located: tuple[list[Tensor], list[VideoTokens]] | None = None
    _merged: MergedVideos | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoded:
        """Return itself: a copy of the features shares it, so that their videos are merged once for both."""
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Pickle as None: the run that would merge the videos is not saved with their features."""
        return _nothing, ()

    @classmethod
    def of(cls, output: Any) -> Encoded | None:
        """Return the `Encoded` of an encoder's `output`; None where it has none."""
        encoded: Encoded | None = getattr(output, FIELD, None)
        return encoded

    def serves(self, owner: object, output: Any) -> bool:
        """Whether the run `owner` may merge the videos, and `output` has the features that were encoded."""
        return self.owner is owner and unchanged(self.features, output)

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
        found = MergedVideos(
            videos,
            [merged[id(video)] for video in videos],
            [sent[id(video)] for video in videos],
            torch.is_inference_mode_enabled(),
        )
        self._merged = found
        return found


def _nothing() -> None:
    return None
