"""Draw the fate of every visual token of a video as a page, a picture or a clip.

`collect.py` runs the model and fills in an `Inspection`, arrays on the host. The other files draw those
arrays; they import neither torch nor models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holitom.inspect.collect import inspect_video, inspection_of, plot
    from holitom.inspect.draw_compare import Column, comparison_page
    from holitom.inspect.draw_html import embed, page
    from holitom.inspect.draw_mp4 import write_clip
    from holitom.inspect.draw_png import comparison_map, token_map
    from holitom.inspect.inspection import Fate, Inspection, Stage

_HOME = {
    "Column": "draw_compare",
    "Fate": "inspection",
    "Inspection": "inspection",
    "Stage": "inspection",
    "comparison_map": "draw_png",
    "comparison_page": "draw_compare",
    "embed": "draw_html",
    "inspect_video": "collect",
    "inspection_of": "collect",
    "page": "draw_html",
    "plot": "collect",
    "token_map": "draw_png",
    "write_clip": "draw_mp4",
}

__all__ = [
    "Column",
    "Fate",
    "Inspection",
    "Stage",
    "comparison_map",
    "comparison_page",
    "embed",
    "inspect_video",
    "inspection_of",
    "page",
    "plot",
    "token_map",
    "write_clip",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
