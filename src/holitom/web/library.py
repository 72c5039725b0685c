"""Examples: questions about videos that a bundled model answers rightly with full tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from holitom.bundled import ASSETS, DEMO_VIDEO, checkpoint, is_bundled

FOLDER = ASSETS / "examples"
"""Holds `NAME.json` for each bundled model, recorded by `tools/render_examples.py`, and the videos."""

USUAL_QUESTIONS = ("What happens in this video?", "What changes from scene to scene?", "What stands still?")


@dataclass(frozen=True)
class Example:
    """One question about one video.

    Attributes:
        video: the video file.
        title: title of the video.
        text: the question.
        answer: the right answer, which the model gives with full tokens; None: not known.
        holitom: the model's answer under HoliTom at 10%; None: not known.
    """

    video: Path
    title: str
    text: str
    answer: str | None = None
    holitom: str | None = None

    @property
    def hurts(self) -> bool:
        """Whether the answer under HoliTom is wrong."""
        return self.holitom != self.answer


def library(model: str | None = None) -> list[Example]:
    """List the examples recorded with a bundled model; for any other, questions about the demo video.

    Args:
        model: name of the model, as `holitom.bundled.checkpoint` takes it; None: the first bundled one.
    """
    if not is_bundled(model):
        return [Example(DEMO_VIDEO, "The demo video", text) for text in USUAL_QUESTIONS]
    recorded = json.loads((FOLDER / f"{Path(checkpoint(model)).name}.json").read_text(encoding="utf-8"))
    return [
        Example(ASSETS / one["video"], one["title"], asked["text"], asked["answer"], asked["holitom"])
        for one in recorded
        for asked in one["questions"]
    ]
