"""The leaderboard as one HTML page, which carries its pictures and asks nothing of the network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from holitom.bench import leaderboard as board
from holitom.bench.leaderboard import Results, Table
from holitom.bench.published_accuracy import PUBLISHED_ACCURACY
from holitom.inspect.document import document, part
from holitom.version import __version__

TITLE = "Token reduction on MovingDigits-QA"


def leaderboard_page(models: Sequence[tuple[Results, Sequence[Path]]], retain_ratio: float) -> str:
    """Make the page.

    Args:
        models: contents of each model's `results.json`, and its pictures (SVG files).
        retain_ratio: the budget that methods are ranked at; the nearest one of the results is taken.
    """
    css = part("map.css") + (files("holitom.bench") / "leaderboard.css").read_text(encoding="utf-8")
    sections = "".join(_model(results, pictures, retain_ratio) for results, pictures in models)
    body = (
        f'<div class="holitom board"><main>\n<header><h1>{TITLE}</h1>'
        f'<p class="banner">{html.escape(board.CAUTION)}</p></header>\n{sections}{_published()}'
        f'<footer><p class="faint">Made by holitom {__version__}.</p></footer>\n</main></div>\n'
    )
    return document(TITLE, css, body)


def _model(results: Results, pictures: Sequence[Path], retain_ratio: float) -> str:
    at = f"at {100 * board.nearest(results, retain_ratio):g}% of the tokens"
    refused = "".join(f"<li>{html.escape(text)}</li>" for text in board.refusals(results))
    return (
        f"<section><h2>{html.escape(results['model']['name'])}</h2>\n<p>{html.escape(board.about(results))}</p>\n"
        f"<h3>Share of full accuracy, %, by budget (ranked {at})</h3>\n"
        f"{_table(board.share_table(results, retain_ratio), 'shaded')}"
        f"<h3>Tokens and cost {at}</h3>\n{_table(board.cost_table(results, retain_ratio))}"
        "<p class='faint'>tower: counted operations of vision tower and projector, two for each "
        "multiply-add, with what a method reads there; prefill: multiply-adds of the visual tokens by the "
        "paper's formula.</p>\n"
        f"<h3>Points lost by task {at}</h3>\n{_table(board.failure_table(results, retain_ratio), 'lost')}"
        f"<p class='faint'>A method fails at a task where it loses {100 * board.LOST:g} points or more.</p>\n"
        f"{''.join(_picture(path) for path in pictures)}"
        f"{f'<details><summary>Refused settings</summary><ul>{refused}</ul></details>' if refused else ''}"
        "</section>\n"
    )


def _published() -> str:
    tables = "".join(
        f"<h3>{html.escape(table.model)}</h3><p>{html.escape(board.published_about(table))}</p>\n"
        f"{_table(board.published_table(table))}"
        for table in PUBLISHED_ACCURACY
    )
    return (
        '<section class="theirs"><h2>Published figures of large models</h2>\n<p><b>Not measured here</b>, '
        "and comparable with nothing above: other models, other benchmarks, and in part the authors' own "
        f"ports of other methods.</p>\n{tables}</section>\n"
    )


def _table(table: Table, shaded: str = "") -> str:
    heads = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in table.heads)
    rows = []
    for name, *cells in table.rows:
        row = f'<th scope="row">{html.escape(name.text)}</th>'
        for cell in cells:
            mark = (
                f' class="{shaded}" style="--v:{cell.shade:.3f}"' if shaded and cell.shade is not None else ""
            )
            row += f"<td{mark}>{html.escape(cell.text)}</td>"
        rows.append(f"<tr>{row}</tr>")
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n{body}</table></div>\n'


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = html.escape(path.stem.replace("_", " "))
    return f'<p><img alt="{name}" src="data:image/svg+xml;base64,{data}"></p>\n'
