"""The settings of reuse in the vision tower, and what one call of the tower reports."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

from holitom.errors import SettingsError
from holitom.tower.plan import Plan


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


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and least <= float(value) <= most


@dataclass
class ReuseReport:
    """What one call of the vision tower computed and what it reused.

    Attributes:
        plans: one for each video of the call, in its order.
        others: images of the call that belong to no video; they are always computed.
        seconds: host seconds spent on planning, which are part of the tower's time.
        stock: whether the stock tower ran, since nothing (or less than a tenth) of the videos is reusable.
    """

    plans: tuple[Plan, ...] = ()
    others: int = 0
    seconds: float = 0.0
    stock: bool = True

    @property
    def computed_share(self) -> float:
        """Share of the videos' places that were computed, in (0, 1]; 1 without videos."""
        places = sum(plan.computed.size for plan in self.plans)
        return sum(int(plan.computed.sum()) for plan in self.plans) / places if places else 1.0

    @property
    def references(self) -> tuple[tuple[int, ...], ...]:
        """Frames of each video (pairs, where the tower takes two frames as one) that are computed whole."""
        return tuple(plan.references for plan in self.plans)

    @property
    def groups(self) -> int:
        """Groups of frames, each with a reference of its own, over all videos."""
        return sum(map(len, self.references))

    def __str__(self) -> str:
        return (
            f"vision tower: {100 * self.computed_share:.1f}% computed, {self.groups} reference frames, "
            f"planned in {self.seconds:.3f} s"
        )
