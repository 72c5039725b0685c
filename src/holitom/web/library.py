"""Examples: questions about videos that the bundled model answers rightly with full tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from holitom.bundled import ASSETS, DEMO_VIDEO

USUAL_QUESTIONS = ("What happens in this video?", "What changes from scene to scene?", "What stands still?")


@dataclass(frozen=True)
class Example:
    """One question about one video.

    Attributes:
        video: the video file.
        title: title of the video.
        text: the question.
        answer: the right answer, which the bundled model gives with full tokens; None: not known.
        holitom: its answer under HoliTom at 10%, recorded by `tools/render_examples.py`.
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


def library() -> list[Example]:
    """Read the recorded examples of the bundled model."""
    recorded = json.loads((ASSETS / "examples" / "library.json").read_text(encoding="utf-8"))
    return [
        Example(ASSETS / one["video"], one["title"], asked["text"], asked["answer"], asked["holitom"])
        for one in recorded
        for asked in one["questions"]
    ]


def usual() -> list[Example]:
    """List questions about the demo video for any other model."""
    return [Example(DEMO_VIDEO, "The demo video", text) for text in USUAL_QUESTIONS]
