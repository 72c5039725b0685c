"""HoliTom: holistic token merging for fast video language models (arXiv 2505.21334).

    from holitom import HoliTom, load_video, prompt

    inputs = prompt(processor, load_video("video.mp4"), "What happens?").to(model.device, model.dtype)
    with HoliTom(retain_ratio=0.10)(model) as run:
        ids = model.generate(**inputs, max_new_tokens=64)
    print(run.last)

Names are imported on first use, so that `import holitom` and the command line's help do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from holitom.version import __version__

if TYPE_CHECKING:
    from holitom.contract import Reuse
    from holitom.errors import (
        HolitomError,
        InterfaceError,
        ModelError,
        OutputError,
        SettingsError,
        UnsupportedModelError,
        UnsupportedUsageError,
        VideoError,
    )
    from holitom.methods.base import Method
    from holitom.methods.holitom import HoliTom
    from holitom.methods.registry import get_method
    from holitom.prompts import prompt
    from holitom.runtime import Handle, Report, Run, VideoReport, attach
    from holitom.tokens import MergedTokens, VideoTokens
    from holitom.video import Video, iter_frames, load_video

_HOME = {
    name: module
    for module, names in {
        "holitom.contract": ["Reuse"],
        "holitom.errors": [
            *("HolitomError", "InterfaceError", "ModelError", "OutputError", "SettingsError"),
            *("UnsupportedModelError", "UnsupportedUsageError", "VideoError"),
        ],
        "holitom.methods.base": ["Method"],
        "holitom.methods.holitom": ["HoliTom"],
        "holitom.methods.registry": ["get_method"],
        "holitom.prompts": ["prompt"],
        "holitom.runtime": ["Handle", "Report", "Run", "VideoReport", "attach"],
        "holitom.tokens": ["MergedTokens", "VideoTokens"],
        "holitom.video": ["Video", "iter_frames", "load_video"],
    }.items()
    for name in names
}

__all__ = [
    "Handle",
    "HoliTom",
    "HolitomError",
    "InterfaceError",
    "MergedTokens",
    "Method",
    "ModelError",
    "OutputError",
    "Report",
    "Reuse",
    "Run",
    "SettingsError",
    "UnsupportedModelError",
    "UnsupportedUsageError",
    "Video",
    "VideoError",
    "VideoReport",
    "VideoTokens",
    "__version__",
    "attach",
    "get_method",
    "iter_frames",
    "load_video",
    "prompt",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
