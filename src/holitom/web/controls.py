"""Choices of the page's controls: methods in groups, their smallest ratios and their defaults."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

from holitom.errors import SettingsError
from holitom.methods import Method
from holitom.methods.choose import read_method
from holitom.methods.registry import METHODS, method_class

# Stops of the retain ratio's slider, in percent.
STOPS = range(2, 101)

_RANGE = re.compile(r"([\[(])(?:1/([TN])|([\d.]+)), 1\]")


def groups() -> dict[str, list[str]]:
    """Group the methods by where they merge, baselines last."""
    found: dict[str, list[str]] = {
        "Before and inside the language model": [],
        "Before the language model": [],
        "Inside the language model": [],
        "Baselines": [],
    }
    for name in METHODS:
        kind = method_class(name)
        if kind.__module__.endswith(".floors"):
            group = "Baselines"
        elif not kind().merges_inside:
            group = "Before the language model"
        elif kind.merge is Method.merge:
            group = "Inside the language model"
        else:
            group = "Before and inside the language model"
        found[group].append(name)
    return found


def least_percent(name: str, steps: int, tokens: int) -> int:
    """Find the smallest retain ratio of the slider that a method can meet, in percent.

    Args:
        name: the method's name in `METHODS`.
        steps: number of steps `T` of the video.
        tokens: number of visual tokens `N` of a step.
    """
    match = _RANGE.fullmatch(METHODS[name].ratios)
    assert match is not None, f"{name}: ratios are written as [a, 1] or (a, 1]"
    bracket, one_of, number = match.groups()
    least = 1 / {"T": steps, "N": tokens}[one_of] if one_of else float(number)
    percent = 100 * least
    stop = math.floor(percent + 1e-9) + 1 if bracket == "(" else math.ceil(percent - 1e-9)
    return min(100, max(STOPS[0], stop))


def usual_threshold(method: str, retain_ratio: float) -> float | None:
    """Find a method's default similarity threshold at a ratio; None where it has no threshold."""
    found = method_class(method)
    if "similarity_threshold" not in {field.name for field in fields(found)}:
        return None
    made: Any = found(retain_ratio)
    return float(getattr(made, "threshold", made.similarity_threshold))


def merging_inside(method: str) -> tuple[bool, bool]:
    """Tell whether a method merges inside the language model by default, and whether that can be changed."""
    usual = method_class(method)().merges_inside
    try:
        read_method(method, inner=not usual)
    except SettingsError:
        return usual, False
    return usual, True


def table(frames: int, frames_per_step: int, tokens: int) -> dict[str, dict[str, Any]]:
    """Collect what the browser needs of each method to move the controls.

    Args:
        frames: largest number of frames.
        frames_per_step: number of frames that the model takes as one step.
        tokens: number of visual tokens of a step.

    Returns:
        By method: `least`, the smallest ratio in percent for 1, 2, ... frames; `threshold`, its
        default for each of `STOPS` (None where it has none); `inner`, see `merging_inside`.
    """
    return {
        name: {
            "least": [
                least_percent(name, -(-count // frames_per_step), tokens) for count in range(1, frames + 1)
            ],
            "threshold": [usual_threshold(name, stop / 100) for stop in STOPS],
            "inner": merging_inside(name),
        }
        for name in METHODS
    }
