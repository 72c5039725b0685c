"""The bundled model, demo video and question, default numbers of frames, and the check of a question."""

from __future__ import annotations

from pathlib import Path

from holitom.errors import SettingsError

ASSETS = Path(__file__).parent / "assets"

BUNDLED_MODEL = ASSETS / "moving-digits"
"""Folder of a LLaVA-OneVision of about 5 million parameters that knows moving digits and shapes."""

ABOUT_BUNDLED = (
    "The bundled model has 5 million parameters and has seen moving digits and shapes alone. It answers "
    "questions like those of the examples; what it says about any other video or question means nothing."
)
"""Shown beside the bundled model's answers."""

DEMO_VIDEO = ASSETS / "demo.mp4"
DEMO_QUESTION = "Which shape flashes?"

BUNDLED_FRAMES = 16
"""Number of frames of the videos that the bundled model is trained on."""

USUAL_FRAMES = 32
"""Number of frames that the paper samples from a video."""

LONGEST_QUESTION = 10_000
"""In characters, about three pages. A longer question is mostly a file's text, given by mistake."""


def check_question(question: str) -> None:
    """Check what a user typed before anything is loaded.

    Raises:
        SettingsError: the question is empty, longer than `LONGEST_QUESTION` characters, or not valid
            UTF-8 (a terminal passes such bytes on as lone surrogates).
    """
    try:
        question.encode()
    except UnicodeEncodeError:
        raise SettingsError("the question is not valid UTF-8") from None
    if not question.strip():
        raise SettingsError("the question is empty")
    if len(question) > LONGEST_QUESTION:
        raise SettingsError(
            f"the question has {len(question):,} characters; it may have {LONGEST_QUESTION:,} at most"
        )
