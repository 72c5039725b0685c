"""Draw inspections as matplotlib figures, for papers and notebooks."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from holitom.inspect import paint
from holitom.inspect.draw_compare import SIDE, Column, figures, first_of, painted
from holitom.inspect.inspection import FATES, Inspection, stage_name
from holitom.video.sampling import spread

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import ConnectionPatch, Rectangle
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'holitom[plots]'") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_FRAMES, IN_A_LINE = 32, 16

# In inches: the page, the column of words, the frames beside it, and the spaces within and between segments.
EDGE, WORDS, FRAMES = 0.15, 2.3, 7.6
WIDTH = EDGE + WORDS + FRAMES + EDGE
GAP, CUT, BELOW = 0.025, 0.1, 0.18
TITLE, BRACKETS, NOTE, CHART, FOOT = 0.78, 0.36, 0.16, 0.85, 1.75
LOWEST, TALLEST = 0.4, 1.7
# Sizes of letters, in points; none is below 9 pixels where a page shows the picture 838 pixels wide.
HEAD, NAME, TEXT, SMALL, TICK = 15, 10, 9, 8.5, 8
DPI = 200
FEW = 3  # positions whose tokens an example gathers: more of them could not be told apart

INK, FAINT, MARK, BAR, STILL = "#1c1f26", "#5f6775", "#d6006e", "#3b6fb6", "#b7dcf3"
SEGMENTS = ("#c9ced8", "#8f98a8")


class TokenMap(Figure):
    """A figure that a notebook shows with any backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=90)  # small, since notebooks store it
        return buffer.getvalue()


class _View(NamedTuple):
    """A row of the figure: its name, its text, and a tile for every frame shown."""

    name: str
    text: str
    tiles: list[paint.Picture]


class _Frame(NamedTuple):
    """Frame `t`, the `nth` one shown, with its left edge at `x`."""

    t: int
    nth: int
    x: float


@dataclass(frozen=True)
class _Sheet:
    """A figure measured in inches from its upper left corner, with frames of `wide` by `high` inches."""

    figure: TokenMap
    wide: float
    high: float

    def axes(self, top: float, tall: float) -> Axes:
        """Add axes over the whole width, from `top` to `tall` inches below it, in inches."""
        height = self.figure.get_figheight()
        ax = self.figure.add_axes((0, (height - top - tall) / height, 1, tall / height))
        ax.set(xlim=(0, WIDTH), ylim=(tall, 0), autoscale_on=False)
        ax.axis("off")
        return ax

    def tile(self, ax: Axes, picture: paint.Picture, x: float, y: float, wide: float, high: float) -> None:
        ax.imshow(picture, extent=(x, x + wide, y + high, y), aspect="auto", interpolation="antialiased")
        ax.set(xlim=(0, WIDTH), ylim=ax.get_ylim())


FATE_VIEW = "Each token's fate"


def token_map(inspection: Inspection, frames: Sequence[int] | None = None) -> TokenMap:
    """Draw the video, each token's fate, the sent tokens, and those that stay for the question.

    Args:
        inspection: the inspection to draw.
        frames: indices of the rows of tokens to show, ascending. Default: all, or 32 of them spread evenly.

    Returns:
        A `matplotlib.figure.Figure`; save it with `savefig`.

    Raises:
        IndexError: there are no such frames.
    """
    total = inspection.shape[0]
    wanted = spread(total, MOST_FRAMES) if frames is None else frames
    shown = [range(total)[t] for t in wanted]
    views = _views(inspection, shown)
    charts = inspection.similarity is not None and total > 1

    tile = views[0].tiles[0]
    of = inspection.segment_of
    aspect = tile.shape[0] / tile.shape[1]
    most = max(1, min(IN_A_LINE, int(FRAMES * aspect / LOWEST)))
    most = -(-len(shown) // -(-len(shown) // most))  # as many in every line
    lines = [shown[first : first + most] for first in range(0, len(shown), most)]
    spaces = max(sum(GAP if of[a] == of[b] else CUT for a, b in pairwise(line)) for line in lines)
    wide = min((FRAMES - spaces) / len(lines[0]), TALLEST / aspect)
    high = wide * aspect

    block = BRACKETS + len(views) * (high + BELOW) + NOTE + charts * CHART
    height = TITLE + len(lines) * block + FOOT
    figure = TokenMap(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    sheet = _Sheet(figure, wide, high)
    _title(sheet, inspection, len(shown))
    for number, line in enumerate(lines):
        placed = list(_placed(inspection, line, number * most, wide))
        top = TITLE + number * block
        _brackets(sheet.axes(top, BRACKETS), inspection, placed, wide)
        top += BRACKETS
        for view in views:
            noted = NOTE if view.name == FATE_VIEW else 0
            _draw_view(sheet, sheet.axes(top, high + BELOW + noted), view, inspection, placed)
            top += high + BELOW + noted
        if charts:
            _similarity(sheet.axes(top, CHART), inspection, placed, wide)
    ax = sheet.axes(height - FOOT, FOOT)
    _legend(sheet, ax)
    _funnel(ax, inspection)
    return figure


def comparison_map(columns: Sequence[Column]) -> TokenMap:
    """Draw methods below one another on the same frames: fates and sent tokens, the answer, the figures.

    Args:
        columns: the methods, see `holitom.inspect.draw_compare`; at most 16 frames are drawn, spread evenly.

    Returns:
        A `matplotlib.figure.Figure`; save it with `savefig`.

    Raises:
        UnsupportedUsageError: none ran, or not all show the same frames.
    """
    first = first_of(columns)
    shown, cell = spread(first.shape[0], IN_A_LINE), paint.cell_size(first, SIDE)
    views = []
    if first.frames is not None:
        tiles = [paint.ground(first, t, cell) for t in shown]
        views.append(_View("The video", first.span(0, first.shape[0] - 1), tiles))
    for column in columns:
        one = column.inspection
        tiles = [] if one is None else [painted(one, t) for t in shown]
        views.append(_View(column.name, _compared(column), tiles))
    aspect = first.grid[0] * cell[0] / (first.grid[1] * cell[1])
    wide = min((FRAMES - GAP * (len(shown) - 1)) / len(shown), TALLEST / aspect)
    high = max(wide * aspect, 0.78)  # room for the words beside it
    height = TITLE + len(views) * (high + BELOW) + FOOT
    figure = TokenMap(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    sheet = _Sheet(figure, wide, wide * aspect)
    ax = sheet.axes(0, TITLE)
    title = first.question or "What each method keeps"
    ax.text(EDGE, 0.15, _plain(title, 80), fontsize=HEAD, fontweight="bold", color=INK, va="top")
    about = "  ·  ".join(filter(None, (first.title, _sized(first), first.model)))
    ax.text(EDGE, 0.46, _plain(about, 140), fontsize=TEXT, color=FAINT, va="top")
    for number, view in enumerate(views):
        ax = sheet.axes(TITLE + number * (high + BELOW), high + BELOW)
        _words(ax, view.name, view.text)
        for place, tile in enumerate(view.tiles):
            sheet.tile(ax, tile, EDGE + WORDS + place * (wide + GAP), 0, wide, wide * aspect)
    _legend(sheet, sheet.axes(height - FOOT, FOOT))
    return figure


def _compared(column: Column) -> str:
    """Write the text beside a method: its answer and its figures."""
    if column.inspection is None:
        return textwrap.shorten(column.refused or "", 120)
    answer = column.inspection.answer
    told = "" if answer is None else f"{textwrap.shorten(answer, 60)} \N{EM DASH} "
    return told + "; ".join(f"{name} {value}" for name, value, _ in figures(column.inspection))


def _plain(text: str, width: int) -> str:
    return textwrap.shorten(text, width).replace("$", r"\$")


def _placed(inspection: Inspection, line: Sequence[int], index: int, wide: float) -> Iterator[_Frame]:
    """Place frames from left to right, with more space where a segment begins."""
    of, x = inspection.segment_of, EDGE + WORDS
    for place, t in enumerate(line):
        if place:
            x += wide + (GAP if of[line[place - 1]] == of[t] else CUT)
        yield _Frame(t, index + place, x)


def _views(inspection: Inspection, shown: Sequence[int]) -> list[_View]:
    grid, cell = inspection.grid, paint.cell_size(inspection, SIDE)
    pictures = [paint.ground(inspection, t, cell) for t in shown]

    views = []
    if inspection.frames is not None:
        cut = len(inspection.segments) < inspection.shape[0]
        views.append(_View("The video", "cut where the most tokens repeat" if cut else "", pictures))
    if inspection.importance is not None:
        heat = paint.relative(inspection.importance)
        tiles = [paint.paint_heat(heat[t], grid, cell) for t in shown]
        views.append(_View("Importance", "light: where the vision tower looks", tiles))
    both = list(zip(shown, pictures, strict=True))
    told = ", ".join(f"{count:,} {FATES[fate].name}" for fate, count in inspection.counts().items() if count)
    tiles = [paint.paint_fates(picture, inspection.fate[t], grid) for t, picture in both]
    views.append(_View(FATE_VIEW, told, tiles))
    sent = inspection.size > 0
    told = f"{inspection.sent:,} of {inspection.into.size:,} tokens go into the language model"
    tiles = [paint.paint_kept(picture, sent[t], grid) for t, picture in both]
    views.append(_View("What is sent", told, tiles))
    if inspection.survivors:
        layer, left = list(inspection.survivors.items())[-1]
        asked = f": {textwrap.shorten(inspection.question, 44)}" if inspection.question else ""
        told = f"{int(left.sum()):,} stay from layer {layer} on{asked}"
        tiles = [paint.paint_kept(picture, left[t], grid) for t, picture in both]
        views.append(_View("What the question keeps", told, tiles))
    return views


def _title(sheet: _Sheet, inspection: Inspection, shown: int) -> None:
    ax = sheet.axes(0, TITLE)
    ax.text(EDGE, 0.15, inspection.headline, fontsize=HEAD, fontweight="bold", color=INK, va="top")
    parts = [inspection.method, inspection.title, _sized(inspection), inspection.model]
    if shown < len(inspection.into):
        parts.append(f"{shown} of them shown")
    if inspection.question and inspection.answer is not None:
        question, answer = textwrap.shorten(inspection.question, 50), textwrap.shorten(inspection.answer, 50)
        parts.append(f"{question} \N{RIGHTWARDS ARROW} {answer}")
    lines = textwrap.wrap("  ·  ".join(filter(None, parts)), 130, max_lines=2)
    ax.text(EDGE, 0.43, "\n".join(lines).replace("$", r"\$"), fontsize=TEXT, color=FAINT, va="top")


def _sized(inspection: Inspection) -> str:
    """Write the numbers of frames and tokens."""
    steps, tokens = inspection.shape
    if inspection.frames_per_step == 1:
        return f"{steps:,} frames of {tokens} tokens"
    return f"{steps * inspection.frames_per_step:,} frames in {steps:,} steps of {tokens} tokens"


def _words(ax: Axes, name: str, text: str) -> None:
    ax.text(EDGE, 0.02, name, fontsize=NAME, fontweight="bold", color=INK, va="top")
    told = textwrap.fill(text, 34).replace("$", r"\$")
    ax.text(EDGE, 0.23, told, fontsize=TEXT, color=FAINT, va="top", linespacing=1.2)


def _brackets(ax: Axes, inspection: Inspection, placed: Sequence[_Frame], wide: float) -> None:
    """Draw a bar over every segment, with the tokens that it saves where there is room."""
    of = inspection.segment_of
    for number in sorted({int(of[frame.t]) for frame in placed}):
        inside = [frame.x for frame in placed if of[frame.t] == number]
        start, length = inside[0], inside[-1] + wide - inside[0]
        ax.add_patch(Rectangle((start, 0.25), length, 0.05, color=SEGMENTS[number % 2], lw=0))
        first, last = inspection.segments[number]
        static, saved = inspection.static(first, last), inspection.saved(first, last)
        span = inspection.span(first, last)
        texts = [
            f"{span}: {static} of {inspection.shape[1]} positions static, {saved:,} tokens saved",
            f"{span}: {saved:,} tokens saved",
            f"{span}: {saved:,}",
            span,
            span.split()[1],
        ]
        if last == first:
            texts = texts[3:]
        text = next((text for text in texts if 0.068 * len(text) <= length), "")
        ax.text(start, 0.2, text, fontsize=SMALL, color=INK, va="bottom")


def _draw_view(
    sheet: _Sheet, ax: Axes, view: _View, inspection: Inspection, placed: Sequence[_Frame]
) -> None:
    _words(ax, view.name, "" if placed[0].nth else view.text)  # once is enough
    for frame in placed:
        sheet.tile(ax, view.tiles[frame.nth], frame.x, 0, sheet.wide, sheet.high)
    if view.name == FATE_VIEW:
        _example(sheet, ax, inspection, placed)


def _example(sheet: _Sheet, ax: Axes, inspection: Inspection, placed: Sequence[_Frame]) -> None:
    """Choose a merged token as an example: of those from `FEW` positions at most, the one of most tokens."""
    rows, columns = inspection.grid
    dx, dy = sheet.wide / columns, sheet.high / rows
    tokens = inspection.shape[1]
    sent = [(frame, n) for frame in placed for n in np.flatnonzero(inspection.size[frame.t] > 1).tolist()]
    if not sent:
        return
    found = {(home.t, n): np.argwhere(inspection.into == home.t * tokens + n) for home, n in sent}
    positions = {place: len(np.unique(members[:, 1])) for place, members in found.items()}
    least = min(positions.values())
    few = [(home, n) for home, n in sent if positions[home.t, n] <= max(FEW, least)]
    home, position = max(few, key=lambda one: len(found[one[0].t, one[1]]))
    place, most = home.t * tokens + position, len(found[home.t, position])

    def middle(frame: _Frame, n: int) -> tuple[float, float]:
        return frame.x + (n % columns + 0.5) * dx, (n // columns + 0.5) * dy

    head = middle(home, position)
    for frame in placed:
        members = np.flatnonzero(inspection.into[frame.t] == place).tolist()
        for n in members:
            x, y = middle(frame, n)
            box = Rectangle((x - dx / 2, y - dy / 2), dx, dy, fill=False, ec=MARK, lw=1.1, zorder=4)
            ax.add_patch(box)
        if members and frame.nth != home.nth:
            nearest = min(
                members, key=lambda n: (n // columns - position // columns) ** 2 + (n % columns) ** 2
            )
            tail = middle(frame, nearest)
            curve = "arc3,rad=0.12"
            arrow = ConnectionPatch(tail, head, "data", "data", arrowstyle="-|>", connectionstyle=curve)
            arrow.set(color=MARK, lw=0.8, mutation_scale=7, zorder=5)
            ax.add_patch(arrow)
    text = (
        f"The {most:,} tokens framed in this colour become one, which is sent with {inspection.span(home.t)}."
    )
    ax.text(placed[0].x, sheet.high + 0.03, text, fontsize=TEXT, color=MARK, va="top")


def _similarity(ax: Axes, inspection: Inspection, placed: Sequence[_Frame], wide: float) -> None:
    """Draw the mean similarity of each frame to the next, and the share of its positions that are static."""
    assert inspection.similarity is not None
    threshold, high, floor = inspection.threshold, 0.5, 0.6
    mean = inspection.similarity.mean(1).clip(0, 1)
    still = None if threshold is None else (inspection.similarity > threshold).mean(1)
    points = [(frame.x + wide + GAP / 2, frame.t) for frame in placed if frame.t < len(mean)]
    left, right = placed[0].x, placed[-1].x + wide
    if still is not None:
        for x, t in points:
            start, end = x - 0.3 * wide, min(right, x + 0.3 * wide)
            ax.add_patch(Rectangle((start, floor), end - start, -high * float(still[t]), color=STILL, lw=0))
    for value, style in ((0, "-"), (1, ":")):
        ax.plot([left, right], [floor - high * value] * 2, color=FAINT, lw=0.6, ls=style)
        ax.text(
            left - 0.04, floor - high * value, f"{value}", fontsize=TICK, color=FAINT, ha="right", va="center"
        )
    heights = [floor - high * float(mean[t]) for _, t in points]
    ax.plot([x for x, _ in points], heights, color=INK, lw=1.2, marker="o", ms=2.5)
    bars = "" if threshold is None else f"; bars: positions above {threshold:g}"
    told = "" if placed[0].nth else f"line: mean over positions{bars}"
    _words(ax, "Similarity to the next", told)


def _legend(sheet: _Sheet, ax: Axes) -> None:
    for index, (fate, words) in enumerate(FATES.items()):
        y = 0.2 + index * 0.28
        sheet.tile(ax, paint.swatch(fate, 48), EDGE, y, 0.2, 0.2)
        ax.text(EDGE + 0.3, y + 0.1, words.name, fontsize=TEXT, fontweight="bold", color=INK, va="center")
        ax.text(EDGE + 1.3, y + 0.1, words.meaning, fontsize=TEXT, color=FAINT, va="center")


def _funnel(ax: Axes, inspection: Inspection) -> None:
    """Write tokens and costs after each stage."""
    full, left = inspection.stages[0], WIDTH / 2 - 0.1
    step = min(0.28, 1.4 / len(inspection.stages))
    for index, stage in enumerate(inspection.stages):
        y, bar = 0.2 + index * step, left + 1.5
        length = 1.35 * stage.tokens / full.tokens
        ax.text(left, y + 0.1, stage_name(stage.name), fontsize=TEXT, color=INK, va="center")
        ax.add_patch(Rectangle((bar, y + 0.1 - 0.32 * step), length, 0.64 * step, color=BAR, lw=0))
        text = f"{stage.tokens:,}"
        if stage.operations is not None and full.operations:
            text += f" tokens, {stage.operations / full.operations:.1%} of the prefill"
        ax.text(bar + length + 0.07, y + 0.1, text, fontsize=SMALL, color=INK, va="center")
    if full.operations is not None:
        text = "Prefill of visual tokens by the paper's formula, if merging ended there."
        ax.text(left, 0.2 + len(inspection.stages) * step + 0.05, text, fontsize=SMALL, color=FAINT, va="top")
