"""The report of reuse in one call of the vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holitom.tower.plan import Plan


@dataclass
class ReuseReport:
    """The report of reuse in one call of the vision tower.

    Attributes:
        plans: one for each video of the call, in order.
        others: number of images of the call that belong to no video; they are always computed.
        seconds: host seconds of planning, which are part of the tower's time.
        stock: the reason why the stock tower ran; None where it did not.
    """

    plans: tuple[Plan, ...] = ()
    others: int = 0
    seconds: float = 0.0
    stock: str | None = None

    @property
    def computed_share(self) -> float:
        """Share of the videos' patches that were computed, in (0, 1]; 1 without videos."""
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

    def to_dict(self) -> dict[str, Any]:
        """The figures as numbers and lists, for JSON."""
        return {
            "computed_share": self.computed_share,
            "groups": self.groups,
            "references": [list(frames) for frames in self.references],
            "stock": self.stock,
            "planning_seconds": self.seconds,
        }

    def __str__(self) -> str:
        why = "" if self.stock is None else f" ({self.stock})"
        return (
            f"vision tower: {100 * self.computed_share:.1f}% computed{why}, {self.groups} reference frames, "
            f"planned in {self.seconds:.3f} s"
        )
