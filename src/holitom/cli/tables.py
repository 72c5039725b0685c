"""Tables and paragraphs that fit the terminal; a table that is too wide is printed as several.

Output to a pipe is plain text; on a terminal, heads are bold. Numbers are right-aligned, text is
left-aligned.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console

PIPE_WIDTH = 80  # characters of a line where stdout is no terminal
LABELS = 22  # characters that the first column is wrapped to where the table is too wide otherwise
GAP = "  "


def width() -> int:
    """Number of characters of a line."""
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns if sys.stdout.isatty() else PIPE_WIDTH


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> None:
    """Print a table to stdout, as several tables with the same first column where it is too wide.

    Args:
        heads: heads of the columns; a line break begins a second line.
        rows: rows of as many cells.
        left: indices of the columns that are left-aligned.
    """
    console = Console(highlight=False, markup=False)
    for number, (head, body) in enumerate(tables(heads, rows, width(), left)):
        if number:
            console.print()
        for lines, style in ((head, "bold"), (body, None)):
            for line in lines:
                console.print(line, style=style, soft_wrap=True)


def print_notes(*paragraphs: str) -> None:
    """Print paragraphs of text, wrapped to the terminal and to 100 characters at most."""
    for paragraph in paragraphs:
        print(textwrap.fill(paragraph, min(width(), 100), break_on_hyphens=False, break_long_words=False))


def tables(
    heads: Sequence[str], rows: Sequence[Sequence[str]], columns: int, left: Collection[int] = (0,)
) -> list[tuple[list[str], list[str]]]:
    """Lay out lines of head and body, for as many tables as it takes to stay within `columns` characters.

    Where one table is too wide, labels of rows are wrapped to `LABELS` characters, and cells that do not fit
    beside them are wrapped between words.
    """
    grid = [[cell.split("\n") for cell in row] for row in (heads, *rows)]
    sizes = _sizes(grid)
    if sum(sizes) + len(GAP) * (len(sizes) - 1) > columns:
        for row in grid[1:]:
            row[0] = _wrapped(row[0], LABELS)
        room = max(1, columns - _sizes(grid)[0] - len(GAP))
        for row in grid:
            row[1:] = [_wrapped(cell, room) for cell in row[1:]]
        sizes = _sizes(grid)
    found = []
    for group in _groups(sizes, columns):
        head, *body = ([row[index] for index in group] for row in grid)
        aligned = [(sizes[index], index in left) for index in group]
        height = max(map(len, head))
        head = [[""] * (height - len(cell)) + cell for cell in head]
        found.append((_lines(head, aligned), [line for row in body for line in _lines(row, aligned)]))
    return found


def _sizes(grid: Sequence[Sequence[Sequence[str]]]) -> list[int]:
    return [max(cell_len(line) for cell in column for line in cell) for column in zip(*grid, strict=True)]


def _groups(sizes: Sequence[int], columns: int) -> list[list[int]]:
    """Indices of the columns of each table: the first column in all, the others in turn."""
    groups, taken = [[0]], sizes[0]
    for index, size in enumerate(sizes[1:], start=1):
        if taken + len(GAP) + size > columns and len(groups[-1]) > 1:
            groups.append([0])
            taken = sizes[0]
        groups[-1].append(index)
        taken += len(GAP) + size
    return groups


def _lines(row: Sequence[Sequence[str]], aligned: Sequence[tuple[int, bool]]) -> list[str]:
    lines = []
    for index in range(max(map(len, row))):
        cells = []
        for cell, (size, to_left) in zip(row, aligned, strict=True):
            text = cell[index] if index < len(cell) else ""
            space = " " * (size - cell_len(text))
            cells.append(text + space if to_left else space + text)
        lines.append(GAP.join(cells).rstrip())
    return lines


def _wrapped(cell: Sequence[str], columns: int) -> list[str]:
    """Wrap the lines of a cell between words."""
    parts = (
        textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False) or [""] for line in cell
    )
    return [part for wrapped in parts for part in wrapped]


def print_answers(question: str, answers: Sequence[tuple[str, str]], verdict: bool = True) -> None:
    """Print a question and the answer of each run.

    Args:
        question: the question.
        answers: name and answer of each run.
        verdict: whether to print, too, if the answers are the same.
    """
    names = max(cell_len(name) for name, _ in answers)
    rows = [("question", question)]
    rows += [
        ("" if number else "answer", f"{name:{names}}{GAP}{said}")
        for number, (name, said) in enumerate(answers)
    ]
    same = len({said for _, said in answers}) == 1
    if verdict:
        rows.append(("", "the same answer" if same else "the answers differ"))
    margin = len("question" + GAP)
    for number, (head, text) in enumerate(rows):
        indent = margin + names + len(GAP) if 1 <= number <= len(answers) else margin
        first, *others = _folded(text, margin, indent, width())
        print(f"{head:8}{GAP}{first}".rstrip())
        for line in others:
            print(" " * indent + line)


def _folded(text: str, first: int, later: int, columns: int) -> list[str]:
    """Fold `text` into lines that fit behind indents of `first` and `later` cells; wide characters take
    two."""
    lines, indent = [], first
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in re.findall(r"\S+\s*|\s+", paragraph) or [""]:
            too_long = cell_len(line + word.rstrip()) > columns - indent
            if line and too_long and cell_len(word.rstrip()) <= columns - later:
                lines.append(line.rstrip())
                line, indent = "", later
            while cell_len(line + word.rstrip()) > max(2, columns - indent):  # a word longer than a line
                part = chop_cells(word, max(2, columns - indent - cell_len(line)))[0]
                lines.append(line + part)
                line, indent, word = "", later, word[len(part) :]
            line += word
        lines.append(line.rstrip())
        indent = later
    return lines
