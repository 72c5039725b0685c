"""Draw an inspection as a clip: each frame, its tokens' fates and its sent tokens, side by side."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from holitom.inspect import paint
from holitom.inspect.inspection import FATES, Inspection
from holitom.inspect.pictures import SIDE

PAPER, INK, FAINT, SOFT, STRONG = (
    (20, 22, 27),
    (236, 238, 242),
    (163, 171, 184),
    (54, 59, 70),
    (142, 192, 255),
)
MARGIN, HEAD, FOOT = 24, 92, 96
SLOWEST, FASTEST = 2, 10  # frames per second of the clip


def write_clip(inspection: Inspection, path: str | Path) -> None:
    """Write an H.264 MP4, a picture for each row of tokens, at the video's pace but 2 to 10 per second.

    Raises:
        OSError: `path` cannot be written.
    """
    pictures = _Pictures(inspection)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(_rate(inspection)).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        for t in range(inspection.shape[0]):
            frame = av.VideoFrame.from_ndarray(pictures.draw(t), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _rate(inspection: Inspection) -> float:
    """Choose the clip's frames per second."""
    seconds = inspection.seconds
    if seconds is None or len(seconds) < 2:
        return SLOWEST
    return float(np.clip((len(seconds) - 1) / max(1e-6, seconds[-1] - seconds[0]), SLOWEST, FASTEST))


class _Pictures:
    """Pictures of a clip; what all of them share is drawn once."""

    def __init__(self, inspection: Inspection) -> None:
        self._of = inspection
        self._cell = paint.cell_size(inspection, SIDE)  # of a panel
        self._wide, self._high = inspection.grid[1] * self._cell[1], inspection.grid[0] * self._cell[0]
        # At least as wide as the words; H.264 takes even sides only.
        self.width = -(-max(3 * self._wide + 4 * MARGIN, 1100) // 2) * 2
        self.height = -(-(HEAD + self._high + FOOT) // 2) * 2
        self._ground = np.asarray(self._background())

    def _lefts(self) -> list[int]:
        space = (self.width - 3 * self._wide) // 4
        return [space + panel * (self._wide + space) for panel in range(3)]

    def _background(self) -> Image.Image:
        inspection = self._of
        image = Image.new("RGB", (self.width, self.height), PAPER)
        draw = ImageDraw.Draw(image)
        draw.text((MARGIN, 14), inspection.headline, INK, _font(26))
        for left, text in zip(self._lefts(), ("video", "each token's fate", "what is sent"), strict=True):
            draw.text((left, HEAD - 26), text, FAINT, _font(18))
        x, y = MARGIN, self.height - 34
        for fate, words in FATES.items():
            image.paste(Image.fromarray(paint.swatch(fate, 20)), (x, y))
            draw.text((x + 28, y), words.name, INK, _font(16))
            x += 60 + round(draw.textlength(words.name, _font(16)))
        for number, (first, last) in enumerate(inspection.segments):
            box = (self._time(first), self.height - 64, self._time(last + 1) - 2, self.height - 52)
            if box[2] >= box[0]:
                draw.rectangle(box, fill=SOFT if number % 2 else (78, 86, 102))
        return image

    def _time(self, t: int) -> int:
        """Find the pixel at which frame `t` begins on the time line."""
        return MARGIN + round(t * (self.width - 2 * MARGIN) / self._of.shape[0])

    def draw(self, t: int) -> paint.Picture:
        """Draw picture `t`, `[height, width, 3]` uint8."""
        inspection, grid = self._of, self._of.grid
        shown = paint.ground(inspection, t, self._cell)
        sent = inspection.size[t] > 0
        page = self._ground.copy()
        panels = (
            shown,
            paint.paint_fates(shown, inspection.fate[t], grid),
            paint.paint_kept(shown, sent, grid),
        )
        for left, panel in zip(self._lefts(), panels, strict=True):
            page[HEAD : HEAD + self._high, left : left + self._wide] = panel
        image = Image.fromarray(page)
        draw = ImageDraw.Draw(image)
        number = int(inspection.segment_of[t])
        first, last = inspection.segments[number]
        parts = [f"{inspection.span(t)} of {inspection.shape[0] * inspection.frames_per_step:,}"]
        if inspection.seconds is not None:
            parts.append(f"{inspection.seconds[t]:.2f} s")
        if len(inspection.segments) < inspection.shape[0]:
            parts.append(f"segment {number + 1}: {inspection.saved(first, last):,} tokens saved over time")
        parts.append(f"{int(sent.sum())} of {inspection.shape[1]} sent here")
        text = "   ".join(parts)
        draw.text((self.width - MARGIN, 44), text, FAINT, _font(16), anchor="ra")
        x = self._time(t)
        draw.rectangle(
            (x, self.height - 68, max(x + 2, self._time(t + 1) - 2), self.height - 48), fill=STRONG
        )
        return np.asarray(image)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
