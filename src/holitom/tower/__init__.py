"""Reuse in the vision tower: what has not changed since a reference frame is not computed again."""

from __future__ import annotations

from holitom.contract import Reuse
from holitom.tower.plan import Plan
from holitom.tower.reuse import ReuseReport
from holitom.tower.session import ReusedTower

__all__ = ["Plan", "Reuse", "ReuseReport", "ReusedTower"]
