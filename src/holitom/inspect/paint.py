"""Paint tokens over frames with numpy, for pictures, clips and sheets.

The look of a cell depends only on the token's fate, so each look is drawn once, at the size of a cell, and
laid over all cells of that fate. Colours are close to Okabe and Ito's palette; each fate also has a shape:
outline, ring, hatching, dot, none.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from holitom.inspect.inspection import Fate, Inspection

Picture = NDArray[np.uint8]

COLORS: dict[Fate, tuple[int, int, int]] = {
    Fate.KEPT: (240, 228, 66),
    Fate.CENTER: (230, 120, 0),
    Fate.STATIC: (86, 180, 233),
    Fate.JOINED: (0, 158, 115),
    Fate.DROPPED: (0, 0, 0),
}
BLANK = (58, 62, 72)  # a frame that was not given
EMPTY = (16, 18, 22)  # a place from which nothing is sent


def cell_size(inspection: Inspection, side: int) -> tuple[int, int]:
    """Choose the pixels `(high, wide)` of a cell, with which a frame becomes about `side` long."""
    (rows, columns), (height, width) = inspection.grid, inspection.frame_size
    scale = side / max(height, width)
    return max(4, round(height * scale / rows)), max(4, round(width * scale / columns))


def canvas(frame: Picture | None, grid: tuple[int, int], cell: tuple[int, int]) -> Picture:
    """Resize `frame` to whole cells, `[rows * high, columns * wide, 3]`; None: a blank one."""
    size = (grid[1] * cell[1], grid[0] * cell[0])
    if frame is None:
        return np.full((size[1], size[0], 3), BLANK, dtype=np.uint8)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def ground(inspection: Inspection, t: int, cell: tuple[int, int]) -> Picture:
    """Resize the frame of row `t` to whole cells, as `canvas` does."""
    return canvas(None if inspection.shown is None else inspection.shown[t], inspection.grid, cell)


def swatch(fate: Fate, side: int) -> Picture:
    """Draw the look of a fate for a legend, over grey, `[side, side, 3]`."""
    grey = np.full((side, side, 3), 150, dtype=np.uint8)
    return paint_fates(grey, np.array([fate], dtype=np.uint8), (1, 1))


def paint_fates(picture: Picture, fate: NDArray[np.uint8], grid: tuple[int, int]) -> Picture:
    """Lay the look of each token's fate `[N]` over a `picture` of `canvas`."""
    return _lay(picture, looks(*_cell(picture, grid))[fate], grid)


def paint_kept(picture: Picture, kept: NDArray[np.bool_], grid: tuple[int, int]) -> Picture:
    """Keep the cells of `picture` where `kept` `[N]` is true, and blacken the others."""
    high, wide = _cell(picture, grid)
    mask = np.kron(kept.reshape(grid), np.ones((high, wide), dtype=bool))
    return np.where(mask[..., None], picture, np.array(EMPTY, dtype=np.uint8))


def paint_heat(values: NDArray[np.float32], grid: tuple[int, int], cell: tuple[int, int]) -> Picture:
    """Paint `values` `[N]` in [0, 1] from dark to light."""
    channels = [np.interp(values, _STOPS, channel) for channel in _CHANNELS]
    colors: Picture = np.stack(channels, axis=-1).astype(np.uint8).reshape(*grid, 3)
    return colors.repeat(cell[0], axis=0).repeat(cell[1], axis=1)


def relative(importance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale importance to [0, 1]: its square root, 1 at the 99.5th percentile of the video."""
    top = float(np.percentile(importance, 99.5)) or 1.0
    scaled: NDArray[np.float32] = np.sqrt((importance / top).clip(0, 1)).astype(np.float32)
    return scaled


@cache
def looks(high: int, wide: int) -> NDArray[np.float32]:
    """Draw the cell of every fate: `[fates, high, wide, 4]` float32, colour (0..255) and opacity (0..1)."""
    y, x = np.mgrid[0:high, 0:wide]
    side = min(high, wide)
    line = max(1, round(side / 12))
    edge = np.minimum(np.minimum(y, high - 1 - y), np.minimum(x, wide - 1 - x))
    middle = np.hypot(y - (high - 1) / 2, x - (wide - 1) / 2)
    found = np.zeros((len(Fate), high, wide, 4), dtype=np.float32)

    def fill(fate: Fate, where: NDArray[np.bool_], opacity: float, color: tuple[int, int, int]) -> None:
        found[fate, where, :3] = color
        found[fate, where, 3] = opacity

    whole = np.ones((high, wide), dtype=bool)
    dark = COLORS[Fate.DROPPED]
    fill(Fate.DROPPED, whole, 0.82, dark)
    fill(Fate.KEPT, edge < line, 1, COLORS[Fate.KEPT])
    fill(Fate.CENTER, edge < 2 * line, 1, COLORS[Fate.CENTER])
    ring = abs(middle - 0.2 * side) <= max(0.8, 0.07 * side)
    fill(Fate.CENTER, ring, 1, (255, 255, 255))
    fill(Fate.STATIC, whole, 0.36, dark)
    period = max(5, round(side / 3))
    fill(Fate.STATIC, (x + y) % period < max(1, period // 5), 0.7, COLORS[Fate.STATIC])
    fill(Fate.JOINED, whole, 0.6, dark)
    fill(Fate.JOINED, middle <= max(1, 0.17 * side), 1, COLORS[Fate.JOINED])
    return found


def _cell(picture: Picture, grid: tuple[int, int]) -> tuple[int, int]:
    return picture.shape[0] // grid[0], picture.shape[1] // grid[1]


def _lay(picture: Picture, cells: NDArray[np.float32], grid: tuple[int, int]) -> Picture:
    """Lay `cells` `[N, high, wide, 4]` over `picture`."""
    high, wide = cells.shape[1:3]
    over = cells.reshape(*grid, high, wide, 4).transpose(0, 2, 1, 3, 4).reshape(*picture.shape[:2], 4)
    opacity = over[..., 3:]
    laid: Picture = (picture * (1 - opacity) + over[..., :3] * opacity).round().astype(np.uint8)
    return laid


# From dark blue over red and orange to near white; lightness rises, so the order is seen without colour.
_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHANNELS = ((12, 60, 170, 245, 255), (16, 40, 60, 140, 245), (40, 110, 90, 50, 200))
