"""Less work in the vision tower: reuse of a reference frame's unchanged patches, and merging of whole
frames."""

from __future__ import annotations

from holitom.contract import Reuse
from holitom.tower.merged_frames import MergedFrames
from holitom.tower.plan import Plan
from holitom.tower.reuse import ReuseReport
from holitom.tower.session import ReusedTower

__all__ = ["MergedFrames", "Plan", "Reuse", "ReuseReport", "ReusedTower"]
