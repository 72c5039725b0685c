"""The library's errors. Every message says what was wrong and what would work."""

from __future__ import annotations

from importlib.metadata import version


class HolitomError(Exception):
    """Base of every error that holitom raises on purpose."""


class SettingsError(HolitomError, ValueError):
    """A hyper-parameter is out of range; the message names the field, its value and its range."""


class UnsupportedModelError(HolitomError, TypeError):
    """There is no adapter for the model's class, or for this variant of it."""


class UnsupportedUsageError(HolitomError, RuntimeError):
    """The model is used in a way that merging does not support, such as with a quantised cache."""


class InterfaceError(UnsupportedModelError):
    """An installed package differs from the tested versions: an argument or a module has another name."""

    @classmethod
    def of(cls, package: str, tested: str, found: str) -> InterfaceError:
        """Make an error that names the installed and the tested versions of `package`.

        Args:
            package: its name on the package index.
            tested: the versions that holitom was tested with, e.g. "5.19 to 5.24".
            found: a clause that says what differs, and where.
        """
        return cls(
            f"{found}; {package} {version(package)} is installed, and holitom was tested with {tested}: "
            "install one of these"
        )


class OutputError(HolitomError, OSError):
    """A file cannot be written at the given path."""


class VideoError(HolitomError, ValueError):
    """A video file cannot be read, or holds no frames."""


class ModelError(HolitomError, ValueError):
    """A checkpoint cannot be found or loaded."""
