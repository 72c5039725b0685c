"""The examples: videos and questions that the bundled model answers rightly with full tokens."""

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
        video: the file.
        title: of the video.
        text: the question.
        answer: the right one, which the bundled model gives with full tokens; None: not known.
        holitom: what it says under HoliTom at 10%, as `tools/render_examples.py` recorded it.
    """

    video: Path
    title: str
    text: str
    answer: str | None = None
    holitom: str | None = None

    @property
    def hurts(self) -> bool:
        """Whether merging makes the answer wrong."""
        return self.holitom != self.answer


def library() -> list[Example]:
    """The examples of the bundled model, as they were recorded."""
    recorded = json.loads((ASSETS / "examples" / "library.json").read_text(encoding="utf-8"))
    return [
        Example(ASSETS / one["video"], one["title"], asked["text"], asked["answer"], asked["holitom"])
        for one in recorded
        for asked in one["questions"]
    ]


def usual() -> list[Example]:
    """Questions that any other model may be asked about the demo video."""
    return [Example(DEMO_VIDEO, "The demo video", text) for text in USUAL_QUESTIONS]
