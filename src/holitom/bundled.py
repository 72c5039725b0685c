"""The bundled models, demo video and question, default numbers of frames, and the check of a question."""

from __future__ import annotations

from pathlib import Path

from holitom.errors import SettingsError

ASSETS = Path(__file__).parent / "assets"

BUNDLED_MODELS = {name: ASSETS / name for name in ("moving-digits", "moving-digits-qwen")}
"""Folders by name: a LLaVA-OneVision of 4.5 and a Qwen3-VL of 5.9 million parameters, for moving digits."""

BUNDLED_MODEL = BUNDLED_MODELS["moving-digits"]
"""Folder of the first, which commands load where no model is named."""

ABOUT_BUNDLED = (
    "A bundled model has some 5 million parameters and has seen moving digits and shapes alone. It answers "
    "questions like those of the examples; what it says about any other video or question means nothing."
)
"""Shown beside a bundled model's answers."""

DEMO_VIDEO = ASSETS / "demo.mp4"
DEMO_QUESTION = "Which shape flashes?"

BUNDLED_FRAMES = 16
"""Number of frames of the videos that the bundled models are trained on."""

USUAL_FRAMES = 32
"""Number of frames that the paper samples from a video."""

LONGEST_QUESTION = 10_000
"""In characters, about three pages. A longer question is mostly a file's text, given by mistake."""


def checkpoint(name: str | None) -> str:
    """The folder of a bundled model by its name, of the first one for None; any other name as it is."""
    if name is None:
        return str(BUNDLED_MODEL)
    return name if Path(name).is_dir() else str(BUNDLED_MODELS.get(name, name))


def is_bundled(name: str | None) -> bool:
    """Whether `name`, as `checkpoint` takes it, is a bundled model."""
    return Path(checkpoint(name)) in BUNDLED_MODELS.values()


def usual_frames(name: str | None) -> int:
    """Number of frames that commands sample for the model `name`, as `checkpoint` takes it."""
    return BUNDLED_FRAMES if is_bundled(name) else USUAL_FRAMES


def title_of(name: str | None) -> str:
    """How messages call the model `name`, as `checkpoint` takes it."""
    if name is None:
        return "the bundled model"
    return f"the bundled model {Path(checkpoint(name)).name}" if is_bundled(name) else name


def short_title(name: str | None) -> str:
    """How a page calls the model `name`: as `title_of`, without the owner or the folders above it."""
    return title_of(name) if is_bundled(name) else Path(checkpoint(name)).name


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
