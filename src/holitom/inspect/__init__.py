"""Draw the fate of every visual token of a video as a page, a picture or a clip.

`collect.py` runs the model and fills in an `Inspection`, arrays on the host. The other files draw those
arrays; they import neither torch nor models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holitom.lazy import on_first_use

if TYPE_CHECKING:
    from holitom.inspect.collect import inspect_video as inspect_video
    from holitom.inspect.collect import inspection_of as inspection_of
    from holitom.inspect.collect import plot as plot
    from holitom.inspect.draw_compare import Column as Column
    from holitom.inspect.draw_compare import comparison_page as comparison_page
    from holitom.inspect.draw_html import embed as embed
    from holitom.inspect.draw_html import page as page
    from holitom.inspect.draw_mp4 import write_clip as write_clip
    from holitom.inspect.draw_png import comparison_map as comparison_map
    from holitom.inspect.draw_png import token_map as token_map
    from holitom.inspect.inspection import Fate as Fate
    from holitom.inspect.inspection import Inspection as Inspection
    from holitom.inspect.inspection import Stage as Stage
else:
    __getattr__, __dir__, __all__ = on_first_use(
        __name__,
        ("holitom.inspect.collect", "inspect_video", "inspection_of", "plot"),
        ("holitom.inspect.draw_compare", "Column", "comparison_page"),
        ("holitom.inspect.draw_html", "embed", "page"),
        ("holitom.inspect.draw_mp4", "write_clip"),
        ("holitom.inspect.draw_png", "comparison_map", "token_map"),
        ("holitom.inspect.inspection", "Fate", "Inspection", "Stage"),
    )
