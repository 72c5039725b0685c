"""The protocol of a merging method, through which the models and the runtime use methods.

A method has an outer stage, `Merges.merge`, which merges one video's visual tokens before the language model,
and inner stages, `Merges.inner`, which reduce the visual tokens of one row of a batch between two layers of
the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, Protocol

from torch import Tensor

from holitom.errors import SettingsError
from holitom.tokens import MergedTokens, VideoTokens


class Stage(Protocol):
    """What every inner stage has."""

    @property
    def layer(self) -> int:
        """Layer (0-based) whose incoming hidden states the stage acts on."""

    @property
    def own_attention(self) -> bool:
        """Whether the attention that ranks is that of `layer`, computed before it runs; else that of the
        layer before, read as it runs."""

    def keep(self, visual: int) -> int:
        """Number of `visual` tokens that stay: known to the host, rising with `visual`, at least one of
        any."""


class InnerStage(Stage, Protocol):
    """An inner stage that ranks visual tokens by the attention of one query."""

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce one row's visual tokens.

        Args:
            hidden: `[V, D]`: the visual tokens that enter `layer`.
            attention: `[V]`: attention that the last query gives them in `layer - 1` (or in `layer`, see
                `own_attention`), averaged over heads.

        Returns:
            Indices of the `keep(V)` kept tokens, ascending, and their features `[keep(V), D]`.
        """


class TextAwareStage(Stage, Protocol):
    """An inner stage that ranks visual tokens by the text, too.

    The text is every token behind the row's last video, up to the question's last token (images there count
    as text). In a row that ends in a video token, that token is the text and not among the visual tokens.
    """

    @property
    def needs_text(self) -> bool:
        """True, which tells this stage from an `InnerStage`."""

    def __call__(self, hidden: Tensor, attention: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce one row's visual tokens.

        Args:
            hidden: `[V, D]`: the visual tokens that enter `layer`.
            attention: `[Q, V]`: attention that each of the `Q >= 1` text tokens gives them in `layer - 1` (or
                in `layer`, see `own_attention`), averaged over heads.
            text: `[Q, D]`: hidden states of those text tokens that enter `layer`.

        Returns:
            As in `InnerStage`.
        """


AnyStage = InnerStage | TextAwareStage
"""Either kind of inner stage."""


def needs_text(stage: AnyStage) -> bool:
    """Whether `stage` is a `TextAwareStage`."""
    return bool(getattr(stage, "needs_text", False))


@dataclass(frozen=True)
class Reuse:
    """Settings of reuse: in the vision tower, unchanged parts of a frame take the values of a reference
    frame.

    The unit is one patch, or one block of patches where the tower merges blocks. It has changed if the mean
    of any 2 x 2 of its pixels differs from the reference frame's by more than `threshold` in any channel.
    Unchanged units take keys, values and output of the reference frame; changed units are computed and attend
    to every unit of their frame. The number of visual tokens stays as it is.

    Attributes:
        threshold: largest difference, in levels of 0..255 of the frame as the processor resized it, at which
            a unit counts as unchanged; 0 reuses equal pixels only. None: the vision tower's default
            (`holitom.tower.kinds`), 16.
        reach: largest number of frames that share a reference frame, itself included; 1 reuses nothing.
        pixel_std: divisors of the channels in the processor's normalisation, after scaling pixels to 0..1.
            None: those of the family's published checkpoints.

    Raises:
        SettingsError: a field is out of its range.
    """

    threshold: float | None = None
    reach: int = 8
    pixel_std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not _is_number(self.threshold, 0, 255):
            raise SettingsError(
                f"threshold must be a number in [0, 255] or None for the tower's default, got "
                f"{self.threshold!r}"
            )
        if not isinstance(self.reach, Integral) or isinstance(self.reach, bool) or not 1 <= self.reach <= 64:
            raise SettingsError(f"reach must be a whole number in [1, 64], got {self.reach!r}")
        std = self.pixel_std
        if std is not None and not (
            isinstance(std, tuple) and len(std) == 3 and all(_is_number(s, 0, 255) and s for s in std)
        ):
            raise SettingsError(
                "pixel_std must be three positive numbers, one a channel, or None for the family's, got "
                f"{std!r}"
            )

    @classmethod
    def of(cls, reuse: Reuse | bool) -> Reuse | None:
        """Resolve a method's `reuse`: True gives the defaults, False None.

        Raises:
            SettingsError: `reuse` is neither a bool nor a `Reuse`.
        """
        if isinstance(reuse, cls):
            return reuse
        if isinstance(reuse, bool):
            return cls() if reuse else None
        raise SettingsError(f"reuse must be True, False or a holitom.Reuse, got {reuse!r}")


@dataclass(frozen=True)
class FrameMerging:
    """Settings for merging whole frames between layers of the vision tower (EarlyTom's stage I).

    `ops.frame_groups.merge_frames` decides which frames merge. A frame that merged into another gets that
    frame's tokens, so the number of visual tokens stays as it is; `VideoTokens.left` lists the frames left.
    Importance is read in the last of the layers.

    Attributes:
        layers: layers of the tower (0-based, ascending) behind which frames merge. None: 10, 21 and 23 of 26,
            in proportion in deeper and shallower towers.
        segment_threshold: see `merge_frames`.
        max_frames: see `merge_frames`.
        momentum: see `merge_frames`.
    """

    layers: tuple[int, ...] | None = None
    segment_threshold: float = 0.6
    max_frames: int = 6
    momentum: float = 0.9


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and least <= float(value) <= most


class Merges(Protocol):
    """A merging method; users subclass `holitom.Method`, which has these members."""

    @property
    def retain_ratio(self) -> float:
        """Share of the visual tokens that goes into the language model, in (0, 1]."""

    @property
    def positions(self) -> Literal["packed", "own"]:
        """Position ids of the tokens left: "packed" numbers them without gaps, "own" keeps the ids of the
        unmerged prompt."""

    @property
    def reuse(self) -> Reuse | bool:
        """Settings of reuse in the vision tower; True: the defaults, False: none."""

    @property
    def tower_batch(self) -> int | None:
        """Frames that go through the vision tower at a time, at most; None: all of a call."""

    @property
    def frame_merging(self) -> FrameMerging | None:
        """Settings with which the vision tower merges whole frames; None: it does not."""

    @property
    def needs_importance(self) -> bool:
        """Whether `merge` reads `VideoTokens.importance`; only then is the vision tower's attention read."""

    @property
    def needs_keys(self) -> bool:
        """Whether `merge` reads `VideoTokens.keys`; only then are the vision tower's keys read."""

    @property
    def needs_shallow(self) -> bool:
        """Whether `merge` reads `VideoTokens.shallow`; only then is an early attention of the tower read."""

    def merge(self, video: VideoTokens) -> MergedTokens:
        """Merge one video's tokens before the language model (the outer stage).

        Decisions depend on `features`, `importance` and `keys`; `streams` merge as `features` do.
        """

    def inner(self, num_layers: int) -> tuple[AnyStage, ...]:
        """The inner stages for a language model of `num_layers` layers, by rising layer."""
