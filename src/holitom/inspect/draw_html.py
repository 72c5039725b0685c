"""Draw an inspection as HTML that carries its frames, its arrays and the script that draws them.

`map.html`, `map.css` and `map.js` are the drawing. `page` makes a whole page of it, `element` an element
`<holitom-map>` (`element.js`) of another page, which must run `element_script` once.
"""

from __future__ import annotations

import base64
import html
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from holitom.inspect import paint
from holitom.inspect.document import document, part
from holitom.inspect.inspection import FATES, Inspection, stage_name
from holitom.inspect.pictures import SIDE
from holitom.version import __version__

# The longest side of a frame and its JPEG quality, by how many frames there are at most: pages stay below
# 5 MB for 32 frames and below 30 MB for 1,000.
SIZES = ((64, SIDE, 82), (256, 320, 76), (1 << 30, 224, 70))


def page(inspection: Inspection) -> str:
    """Draw a whole HTML page in one file, which asks nothing of the network."""
    # In a script element only "<" could end the data early; JSON may spell it as an escape.
    data = _json(inspection).replace("<", "\\u003c")
    body = (
        f'{part("map.html")}<script type="application/json" id="data">{data}</script>\n<script>\n'
        f'{part("map.js")}drawMap(document, JSON.parse(document.getElementById("data").textContent));\n'
        "</script>\n"
    )
    title = f"{inspection.title}: {inspection.headline}"
    return document(title, part("map.css"), body, scripts=True)


def element(inspection: Inspection) -> str:
    """Draw an element `<holitom-map>` of another page, which must have run `element_script`."""
    return f'<holitom-map data="{html.escape(_json(inspection))}"></holitom-map>'


def element_script() -> str:
    """Return the script that a page must run once before it shows the element of `element`."""
    shown = json.dumps(f"<style>{part('map.css')}</style>{part('map.html')}")
    return f"const HOLITOM_MAP = {shown};\n{part('map.js')}{part('element.js')}"


def embed(inspection: Inspection, height: int = 720) -> str:
    """Draw the page as an `<iframe>` for another page or a notebook.

    Args:
        inspection: the inspection to draw.
        height: height of the element, in CSS pixels.
    """
    return (
        f'<iframe title="What was merged" sandbox="allow-scripts" width="100%" height="{height}" '
        f'style="border:0" srcdoc="{html.escape(page(inspection))}"></iframe>'
    )


def _json(inspection: Inspection) -> str:
    return json.dumps(_data(inspection), ensure_ascii=False, separators=(",", ":"))


def _data(inspection: Inspection) -> dict[str, Any]:
    """Collect the data that the script reads; arrays are base64 of their little-endian bytes."""
    frames, _ = inspection.shape
    importance, similarity = inspection.importance, inspection.similarity
    height, width = inspection.frame_size  # a plain grid has square cells
    return {
        "version": __version__,
        "title": inspection.title,
        "method": inspection.method,
        "model": inspection.model,
        "question": inspection.question,
        "answer": inspection.answer,
        "headline": inspection.headline,
        "hint": inspection.hint,
        "banner": inspection.banner,
        "computed": _computed(inspection),
        "brightened": inspection.shown is not inspection.frames,
        "frames": frames,
        "per_step": inspection.frames_per_step,
        "grid": inspection.grid,
        "aspect": width / height,
        "segments": [
            [first, last, inspection.static(first, last), inspection.saved(first, last)]
            for first, last in inspection.segments
        ],
        "numbers": None if inspection.numbers is None else inspection.numbers.tolist(),
        "seconds": None if inspection.seconds is None else inspection.seconds.round(3).tolist(),
        "stages": [[stage_name(s.name), s.tokens, s.operations, s.kv_bytes] for s in inspection.stages],
        "fates": [
            [int(fate), words.name, words.meaning, "#{:02x}{:02x}{:02x}".format(*paint.COLORS[fate])]
            for fate, words in FATES.items()
        ],
        "threshold": inspection.threshold,
        "via": _packed(inspection.via.astype("<i4")),
        "into": _packed(inspection.into.astype("<i4")),
        "fate": _packed(inspection.fate),
        "importance": None if importance is None else _packed(_bytes(paint.relative(importance))),
        "similarity": None if similarity is None else _packed(_bytes((similarity.clip(-1, 1) + 1) / 2)),
        "survivors": {str(k): _packed(v.astype(np.uint8)) for k, v in (inspection.survivors or {}).items()},
        "pictures": _pictures(inspection),
    }


def _computed(inspection: Inspection) -> dict[str, Any] | None:
    """Collect the places that the vision tower computed of each frame; None without reuse."""
    reused = inspection.reused
    if reused is None:
        return None
    return {
        "grid": reused.grid,
        "share": float(reused.computed.mean()),
        "places": _packed(reused.computed.astype(np.uint8)),
        "reference": reused.reference.tolist(),
    }


def _bytes(unit: Any) -> Any:
    """Quantise values in [0, 1] to bytes 0..255."""
    return np.rint(unit * 255).astype(np.uint8)


def _packed(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _pictures(inspection: Inspection) -> list[str]:
    """Write every frame as the base64 of a JPEG."""
    if inspection.frames is None:
        return []
    side, quality = next((side, quality) for most, side, quality in SIZES if len(inspection.frames) <= most)
    pictures = []
    assert inspection.shown is not None
    for frame in inspection.shown:
        image = Image.fromarray(frame)
        image.thumbnail((side, side), Image.Resampling.BICUBIC)  # never enlarges
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        pictures.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
    return pictures
