"""The library's errors: one family, each message says what was wrong and what would work."""

from __future__ import annotations

from importlib.metadata import version


class HolitomError(Exception):
    """Base of every error that holitom raises on purpose."""


class SettingsError(HolitomError, ValueError):
    """A hyper-parameter is out of range; the message names the field, its value and its range."""


class UnsupportedModelError(HolitomError, TypeError):
    """No adapter knows this model class, or this variant of it."""


class UnsupportedUsageError(HolitomError, RuntimeError):
    """The model is used in a way that merging cannot serve (a static cache, say)."""


class InterfaceError(UnsupportedModelError):
    """An installed package is not built as holitom needs it: an argument or a module has another name."""

    @classmethod
    def of(cls, package: str, tested: str, found: str) -> InterfaceError:
        """The error that names both versions of `package`: the installed one, and those in `tested`.

        Args:
            package: its name on the package index.
            tested: the versions that holitom was tested with, e.g. "5.19 to 5.24".
            found: a clause that says what is otherwise, and where.
        """
        return cls(
            f"{found}; {package} {version(package)} is installed, and holitom was tested with {tested}: "
            "install one of these"
        )


class OutputError(HolitomError, OSError):
    """A file cannot be written where it was asked for."""


class VideoError(HolitomError, ValueError):
    """A video file cannot be read, or holds nothing to sample."""


class ModelError(HolitomError, ValueError):
    """A checkpoint cannot be found or loaded."""
