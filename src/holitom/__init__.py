"""HoliTom: holistic token merging for fast video language models (arXiv 2505.21334).

    from holitom import HoliTom, load_video, prompt

    inputs = prompt(processor, load_video("video.mp4"), "What happens?").to(model.device, model.dtype)
    with HoliTom(retain_ratio=0.10)(model) as run:
        ids = model.generate(**inputs, max_new_tokens=64)
    print(run.last)

Names are imported on first use, so that `import holitom` and the command line's help do not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holitom.lazy import on_first_use
from holitom.version import __version__ as __version__

if TYPE_CHECKING:
    from holitom.contract import Reuse as Reuse
    from holitom.errors import HolitomError as HolitomError
    from holitom.errors import InterfaceError as InterfaceError
    from holitom.errors import ModelError as ModelError
    from holitom.errors import OutputError as OutputError
    from holitom.errors import SettingsError as SettingsError
    from holitom.errors import UnsupportedModelError as UnsupportedModelError
    from holitom.errors import UnsupportedUsageError as UnsupportedUsageError
    from holitom.errors import VideoError as VideoError
    from holitom.methods.base import Method as Method
    from holitom.methods.holitom import HoliTom as HoliTom
    from holitom.methods.registry import get_method as get_method
    from holitom.prompts import prompt as prompt
    from holitom.runtime import Handle as Handle
    from holitom.runtime import Report as Report
    from holitom.runtime import Run as Run
    from holitom.runtime import VideoReport as VideoReport
    from holitom.runtime import attach as attach
    from holitom.tokens import MergedTokens as MergedTokens
    from holitom.tokens import VideoTokens as VideoTokens
    from holitom.video import Video as Video
    from holitom.video import iter_frames as iter_frames
    from holitom.video import load_video as load_video
else:
    __getattr__, __dir__, __all__ = on_first_use(
        __name__,
        ("holitom.contract", "Reuse"),
        (
            "holitom.errors",
            *("HolitomError", "InterfaceError", "ModelError", "OutputError", "SettingsError"),
            *("UnsupportedModelError", "UnsupportedUsageError", "VideoError"),
        ),
        ("holitom.methods.base", "Method"),
        ("holitom.methods.holitom", "HoliTom"),
        ("holitom.methods.registry", "get_method"),
        ("holitom.prompts", "prompt"),
        ("holitom.runtime", "Handle", "Report", "Run", "VideoReport", "attach"),
        ("holitom.tokens", "MergedTokens", "VideoTokens"),
        ("holitom.video", "Video", "iter_frames", "load_video"),
        own=["__version__"],
    )
