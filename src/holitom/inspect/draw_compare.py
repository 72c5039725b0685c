"""Draw several methods side by side on the same frames, with the answer and the costs of each."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from holitom.errors import UnsupportedUsageError
from holitom.inspect import paint
from holitom.inspect.document import document, part
from holitom.inspect.inspection import FATES, Inspection
from holitom.version import __version__
from holitom.video.sampling import spread

MOST_FRAMES = 64  # rows of tokens, spread evenly
SIDE = 232  # pixels of a picture's longer side


@dataclass(frozen=True, eq=False)
class Column:
    """One method of a comparison.

    Attributes:
        name: the method as the user wrote it.
        does: a few words on what it does.
        inspection: the inspection of its run; None where it did not run.
        refused: the reason why it did not run.
        notes: further figures, name and value.
    """

    name: str
    does: str = ""
    inspection: Inspection | None = None
    refused: str | None = None
    notes: tuple[tuple[str, str], ...] = ()


def comparison_page(columns: Sequence[Column]) -> str:
    """Draw a whole HTML page in one file, without a script, which asks nothing of the network.

    Args:
        columns: methods on the same video, of which at least one ran.

    Raises:
        UnsupportedUsageError: none ran, or not all show the same frames.
    """
    first = first_of(columns)
    about = f"{first.title} · {first.span(0, first.shape[0] - 1)}" + (
        f" · {first.model}" if first.model else ""
    )
    heading = first.question or "What each method keeps"
    banner = f'<p class="banner">{html.escape(first.banner)}</p>' if first.banner else ""
    title = f"{first.title}: {', '.join(column.name for column in columns)}"
    body = (
        f'<div class="holitom">\n<main>\n<header><h1>{html.escape(heading)}</h1>'
        f'<p class="faint">{html.escape(about)}</p>{banner}</header>{comparison(columns)}'
        f"<footer><p>Made by holitom {__version__}.</p></footer>\n</main>\n</div>\n"
    )
    return document(title, part("map.css") + part("compare.css"), body)


def comparison_css() -> str:
    """Return the styles that a page with the element of `comparison` needs."""
    return part("compare.css")


def comparison(columns: Sequence[Column]) -> str:
    """Draw the comparison as an element of another page, which needs the styles of `comparison_css`.

    Raises:
        UnsupportedUsageError: not all show the same frames.
    """
    heads = "".join(_head(column) for column in columns)
    ran = [column for column in columns if column.inspection is not None]
    shown = f'<div class="columns">{heads}</div>{_legend(ran)}{_rows(columns)}' if ran else heads
    return f'<div class="compared" style="--n:{len(columns)}">{shown}</div>'


def first_of(columns: Sequence[Column]) -> Inspection:
    """The inspection of the first method that ran.

    Raises:
        UnsupportedUsageError: none ran, or not all that did had the same steps and tokens.
    """
    ran = [column.inspection for column in columns if column.inspection is not None]
    if not ran:
        raise UnsupportedUsageError("; ".join(f"{column.name}: {column.refused}" for column in columns))
    if len(shapes := {one.shape for one in ran}) > 1:
        raise UnsupportedUsageError(f"methods are compared on the same frames, not on {sorted(shapes)}")
    return ran[0]


def _head(column: Column) -> str:
    parts = [f"<h3>{html.escape(column.name)}</h3>"]
    if column.does:
        parts.append(f"<p class=does>{html.escape(column.does)}</p>")
    one = column.inspection
    if one is None:
        parts.append(f"<p class=refused>{html.escape(column.refused or 'waits for its turn')}</p>")
    else:
        if one.answer is not None:
            parts.append(f"<p class=said>{html.escape(one.answer) or '(no answer)'}</p>")
        parts.append(f"<dl>{''.join(_figure(*figure) for figure in figures(one))}")
        parts += [f"<dt>{html.escape(name)}<dd>{html.escape(value)}" for name, value in column.notes]
        parts.append("</dl>")
    return f'<section class="method" aria-label="{html.escape(column.name)}">{"".join(parts)}</section>'


def figures(inspection: Inspection) -> list[tuple[str, str, float]]:
    """List name, value and share of full tokens of each figure: tokens sent and left, prefill, KV cache."""
    total, full, last = inspection.into.size, inspection.stages[0], inspection.stages[-1]
    found = [("visual tokens", f"{inspection.sent:,} of {total:,}", inspection.sent / total)]
    if inspection.survivors:
        left = inspection.remaining
        found.append((f"from layer {list(inspection.survivors)[-1]} on", f"{left:,}", left / total))
    if full.operations and last.operations is not None:
        share = last.operations / full.operations
        found.append(("prefill", f"{share:.1%}", share))
    if full.kv_bytes and last.kv_bytes is not None:
        share = last.kv_bytes / full.kv_bytes
        found.append(("KV cache", f"{last.kv_bytes / 1e6:.2f} MB, {share:.1%}", share))
    return found


def _figure(name: str, value: str, share: float) -> str:
    bar = f'<span class="meter" aria-hidden="true"><b style="width:{share:.1%}"></b></span>'
    return f"<dt>{html.escape(name)}<dd>{html.escape(value)}{bar if share <= 1 else ''}"


def _legend(ran: Sequence[Column]) -> str:
    items = [
        f'<li><img alt="" src="{_picture(paint.swatch(fate, 22))}">'
        f"<span>{words.name}: {words.meaning}</span></li>"
        for fate, words in FATES.items()
    ]
    if any(column.inspection is not None and column.inspection.survivors for column in ran):
        items.append("<li>dimmed: sent, then dropped inside the language model</li>")
    return f"<ul>{''.join(items)}</ul>"


def _rows(columns: Sequence[Column]) -> str:
    """Draw the frames of each method under it, the same frames in the same places."""
    first = first_of(columns)
    shown = spread(first.shape[0], MOST_FRAMES)
    sheets = "".join(f'<div class="frames">{"".join(_frames(column, shown))}</div>' for column in columns)
    more = first.shape[0] - len(shown)
    note = f"<p class=at>{more} more rows of tokens are not shown.</p>" if more else ""
    return f'<div class="columns">{sheets}</div>{note}'


def _frames(column: Column, shown: Sequence[int]) -> Iterator[str]:
    """Draw the frames of a method that ran."""
    one = column.inspection
    if one is None:
        return
    for t in shown:
        when = "" if one.seconds is None else f" · {one.seconds[t]:.2f} s"
        counts = ", ".join(f"{count} {FATES[fate].name}" for fate, count in one.counts(t, t).items() if count)
        number = one.span(t).split(" ")[1]
        alt = html.escape(f"{one.span(t).capitalize()} by {column.name}: {counts}")
        yield (
            f'<figure><img alt="{alt}" title="{alt}" loading="lazy" src="{_picture(painted(one, t))}">'
            f"<figcaption>{number}{when}</figcaption></figure>"
        )


def painted(inspection: Inspection, t: int) -> paint.Picture:
    """Paint row `t` of tokens with each token's fate, about `SIDE` pixels on its longer side.

    Sent tokens that the last merge inside the language model drops are dimmed.
    """
    cell = paint.cell_size(inspection, SIDE)
    picture = paint.paint_fates(paint.ground(inspection, t, cell), inspection.fate[t], inspection.grid)
    if not inspection.survivors:
        return picture
    left = list(inspection.survivors.values())[-1][t]
    gone = ((inspection.size[t] > 0) & ~left).reshape(inspection.grid)
    where = gone.repeat(cell[0], axis=0).repeat(cell[1], axis=1)[..., None]
    dimmed: paint.Picture = np.where(where, picture // 4, picture).astype(np.uint8)
    return dimmed


def _picture(picture: paint.Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
