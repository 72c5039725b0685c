"""What a merging method is to those that run it: the models and the runtime know this and no method.

A method reduces a video's visual tokens twice. Its outer stage, `Merges.merge`, acts on one video before the
language model. Its inner stages, `Merges.inner`, act on one row of a batch between two layers of the language
model.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, Protocol

from torch import Tensor

from holitom.errors import SettingsError
from holitom.tokens import MergedTokens, VideoTokens


class InnerStage(Protocol):
    """One reduction of the visual tokens inside the language model, for one row of a batch."""

    @property
    def layer(self) -> int:
        """0-based: the stage acts on the hidden states that enter this layer."""

    @property
    def own_attention(self) -> bool:
        """Whether the attention that ranks is `layer`'s own, worked out before it runs; else it is read in
        the layer before."""

    def keep(self, visual: int) -> int:
        """How many of `visual` tokens remain: known to the host, monotone, at least one of any."""

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce one row's visual tokens.

        Args:
            hidden: `[V, D]`: the visual tokens that enter `layer`.
            attention: `[V]`: the attention that the last query gave them in `layer - 1` (or gives them
                in `layer`, see `own_attention`), averaged over heads.

        Returns:
            Indices of the `keep(V)` kept tokens, ascending, and their features `[keep(V), D]`.
        """


class TextAwareStage(Protocol):
    """An `InnerStage` that is also given the text, told by its attribute `needs_text`.

    `layer`, `own_attention` and `keep` are as in `InnerStage`. The text is what stands behind the row's last
    video, up to the token that asks (images there count as text). A row that ends in a video token has that
    token for its text, which is not among the visual ones then.
    """

    @property
    def layer(self) -> int:
        """As in `InnerStage`."""

    @property
    def own_attention(self) -> bool:
        """As in `InnerStage`."""

    @property
    def needs_text(self) -> bool:
        """True."""

    def keep(self, visual: int) -> int:
        """As in `InnerStage`."""

    def __call__(self, hidden: Tensor, attention: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce one row's visual tokens.

        Args:
            hidden: `[V, D]`: the visual tokens that enter `layer`.
            attention: `[Q, V]`: attention to them of each of the `Q >= 1` text tokens behind the row's last
                video, in `layer - 1` (or in `layer`, see `own_attention`), averaged over heads.
            text: `[Q, D]`: hidden states of those text tokens that enter `layer`.

        Returns:
            As in `InnerStage`.
        """


AnyStage = InnerStage | TextAwareStage
"""What a method's `inner` returns."""


def needs_text(stage: AnyStage) -> bool:
    """Whether `stage` is a `TextAwareStage`."""
    return bool(getattr(stage, "needs_text", False))


@dataclass(frozen=True)
class Reuse:
    """Reuse a reference frame's tokens at the places of a video that have not changed.

    A place is one patch of a frame, or one block of patches where the tower merges blocks. It has changed if
    the mean of any 2 x 2 pixels of it differs from the reference frame's by more than `threshold` in any
    channel. Places that have not changed take keys, values and output of the reference frame; all others
    are computed and attend to every place of their frame. The number of visual tokens stays as it is.

    Attributes:
        threshold: largest difference, in levels of 0..255 of the frame as the processor resized it, at which
            a place counts as unchanged; 0 reuses equal pixels only. None: the vision tower's default
            (`holitom.tower.kinds`), 16.
        reach: frames that one reference serves at most, itself included; 1 reuses nothing.
        pixel_std: what the processor divided each channel by after scaling pixels to 0..1. None: as the
            family's published checkpoints do.

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
        """The settings that `reuse` stands for: True the defaults, False none.

        Raises:
            SettingsError: it is something else.
        """
        if isinstance(reuse, cls):
            return reuse
        if isinstance(reuse, bool):
            return cls() if reuse else None
        raise SettingsError(f"reuse must be True, False or a holitom.Reuse, got {reuse!r}")


@dataclass(frozen=True)
class FrameMerging:
    """Merge whole frames that are alike between layers of the vision tower (EarlyTom's stage I).

    See `ops.frame_groups.merge_frames`. Frames that the tower merged away take the tokens of the frame that
    they are part of, so the number of visual tokens stays as it is; `VideoTokens.left` says which frames are
    left. Attention is read in the last of the layers.

    Attributes:
        layers: layers of the tower (0-based, ascending) behind which frames merge. None: 10, 21 and 23 of 26,
            in proportion in deeper and shallower towers.
        segment_threshold: see `merge_frames`.
        max_frames: likewise.
        momentum: likewise.
    """

    layers: tuple[int, ...] | None = None
    segment_threshold: float = 0.6
    max_frames: int = 6
    momentum: float = 0.9


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and least <= float(value) <= most


class Merges(Protocol):
    """What merges a video's visual tokens; `holitom.Method` is the one that a user subclasses."""

    @property
    def retain_ratio(self) -> float:
        """Share of the visual tokens that goes into the language model, in (0, 1]."""

    @property
    def positions(self) -> Literal["packed", "own"]:
        """How position ids are given: "packed" numbers what is left of a prompt without gaps, "own" keeps the
        ids of the unmerged prompt."""

    @property
    def reuse(self) -> Reuse | bool:
        """Whether the vision tower reuses a reference frame's tokens, and how; True: as `Reuse()` does."""

    @property
    def frame_merging(self) -> FrameMerging | None:
        """How the vision tower merges whole frames; None: it does not."""

    @property
    def needs_importance(self) -> bool:
        """Whether `merge` reads `VideoTokens.importance`; only then is the vision tower's attention read."""

    @property
    def needs_keys(self) -> bool:
        """Whether `merge` reads `VideoTokens.keys`; only then are the vision tower's keys read."""

    @property
    def needs_shallow(self) -> bool:
        """Whether `merge` reads `VideoTokens.shallow`, of towers that have it."""

    def merge(self, video: VideoTokens) -> MergedTokens:
        """The outer stage: the tokens that one video sends into the language model.

        It decides on `features`, `importance` and `keys`, and merges `streams` as it merges `features`.
        """

    def inner(self, num_layers: int) -> tuple[AnyStage, ...]:
        """The stages inside a language model of `num_layers` layers, by rising layer."""
