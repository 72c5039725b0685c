"""HoliTom: video language models at a tenth of their visual tokens.

    from holitom import HoliTom

    with HoliTom(retain_ratio=0.10)(model) as run:
        ids = model.generate(**inputs, max_new_tokens=64)
    print(run.last)

Importing this package loads no model code; each name loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holitom.errors import (
        HolitomError,
        InterfaceError,
        OutputError,
        SettingsError,
        UnsupportedModelError,
        UnsupportedUsageError,
        VideoError,
    )
    from holitom.methods.base import Method
    from holitom.methods.holitom import HoliTom
    from holitom.runtime import Report, Run, VideoReport
    from holitom.tokens import MergedTokens, VideoTokens

__version__ = "0.1.0"

_HOME = {
    "HoliTom": "holitom.methods.holitom",
    "HolitomError": "holitom.errors",
    "InterfaceError": "holitom.errors",
    "MergedTokens": "holitom.tokens",
    "Method": "holitom.methods.base",
    "OutputError": "holitom.errors",
    "Report": "holitom.runtime",
    "Run": "holitom.runtime",
    "SettingsError": "holitom.errors",
    "UnsupportedModelError": "holitom.errors",
    "UnsupportedUsageError": "holitom.errors",
    "VideoError": "holitom.errors",
    "VideoReport": "holitom.runtime",
    "VideoTokens": "holitom.tokens",
}

__all__ = [
    "HoliTom",
    "HolitomError",
    "InterfaceError",
    "MergedTokens",
    "Method",
    "OutputError",
    "Report",
    "Run",
    "SettingsError",
    "UnsupportedModelError",
    "UnsupportedUsageError",
    "VideoError",
    "VideoReport",
    "VideoTokens",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
