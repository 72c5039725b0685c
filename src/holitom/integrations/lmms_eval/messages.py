"""Convert the messages of an lmms-eval task to a conversation and its media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holitom.errors import UnsupportedUsageError


@dataclass
class Question:
    """One request: a conversation and its media, in order.

    Attributes:
        name: task and document, for error messages.
        conversation: messages, each with a list of parts; media parts hold their type alone.
        videos: video files.
        images: PIL images.
    """

    name: str
    conversation: list[dict[str, Any]]
    videos: list[Path]
    images: list[Any]


def read_messages(name: str, messages: Sequence[dict[str, Any]]) -> Question:
    """Separate a conversation from its media.

    Raises:
        UnsupportedUsageError: a part is neither text, image nor video file, or is a clip of a video.
    """
    conversation: list[dict[str, Any]] = []
    videos: list[Path] = []
    images: list[Any] = []
    for message in messages:
        parts: list[dict[str, Any]] = []
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind, url = part["type"], part.get("url")
            if kind == "text":
                parts.append({"type": "text", "text": part["text"]})
                continue
            if kind == "image":
                images.append(_image(name, url))
            elif kind == "video" and isinstance(url, str | Path) and part.get("start_time") is None:
                videos.append(Path(url))
            else:
                raise UnsupportedUsageError(
                    f"{name}: a {kind} given as {type(url).__name__}; supported: text, "
                    "images and whole video files"
                )
            parts.append({"type": kind})
        conversation.append({"role": message["role"], "content": parts})
    return Question(name, conversation, videos, images)


def _image(name: str, given: Any) -> Any:
    from PIL import Image

    if not isinstance(given, str | Path):
        return given.convert("RGB")
    try:
        return Image.open(given).convert("RGB")
    except OSError as error:
        raise UnsupportedUsageError(f"{name}: {error}") from error
