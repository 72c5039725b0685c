"""The library's errors: one family, each message says what was wrong and what would work."""

from __future__ import annotations


class HolitomError(Exception):
    """Base of every error that holitom raises on purpose."""


class SettingsError(HolitomError, ValueError):
    """A hyper-parameter is out of range; the message names the field, its value and its range."""


class UnsupportedModelError(HolitomError, TypeError):
    """No adapter knows this model class, or this variant of it."""


class UnsupportedUsageError(HolitomError, RuntimeError):
    """The model is used in a way that merging cannot serve (a static cache, say)."""


class OutputError(HolitomError, OSError):
    """A file cannot be written where it was asked for."""


class VideoError(HolitomError, ValueError):
    """A video file cannot be read, or holds nothing to sample."""


class ModelError(HolitomError, ValueError):
    """A checkpoint cannot be found or loaded."""
