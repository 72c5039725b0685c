"""Tables and paragraphs that fit the terminal; a table that is too wide is printed as several.

Output to a pipe is plain text; on a terminal, heads are bold. Numbers are right-aligned, text is
left-aligned.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 80  # characters of a line where stdout is no terminal
LABELS = 22  # characters that the first column is wrapped to, at the least, where the table is too wide
BESIDE = 24  # characters that an answer needs beside the name of its run; with fewer it is below the name
GAP = "  "


def width() -> int:
    """Number of characters of a line: of the terminal, or what the variable COLUMNS says."""
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return PIPE_WIDTH
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,), labels: int = 1
) -> None:
    """Print a table to stdout, as several tables with the same first columns where it is too wide.

    Args:
        heads: heads of the columns; a line break begins a second line.
        rows: rows of as many cells.
        left: indices of the columns that are left-aligned.
        labels: number of first columns that name a row, and that each of several tables has.
    """
    console = Console(highlight=False, markup=False)
    for number, (head, body) in enumerate(tables(heads, rows, width(), left, labels)):
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
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: int,
    left: Collection[int] = (0,),
    labels: int = 1,
) -> list[tuple[list[str], list[str]]]:
    """Lay out lines of head and body, for as many tables as it takes to stay within `columns` characters.

    Where one table is too wide, labels of rows are wrapped to no fewer than `LABELS` characters, cells that
    do not fit beside them are wrapped between words, and then heads that are wider than the cells below. Of
    several tables, each leaves out the rows that have no cells in it besides labels.
    """
    grid = [[cell.split("\n") for cell in row] for row in (heads, *rows)]
    if _wide(grid) > columns:
        fitting = columns - (_wide(grid) - _sizes(grid)[0])
        for row in grid[1:]:
            row[0] = _wrapped(row[0], max(LABELS, fitting))
        room = max(1, columns - _sizes(grid)[0] - len(GAP))
        for row in grid:
            row[1:] = [_wrapped(cell, room) for cell in row[1:]]
    if _wide(grid) > columns:
        below = _sizes(grid[1:]) if rows else [0] * len(heads)
        grid[0] = [_wrapped(cell, size) for cell, size in zip(grid[0], below, strict=True)]
    sizes = _sizes(grid)
    found = []
    groups = _groups(sizes, columns, labels)
    for group in groups:
        head, *body = ([row[index] for index in group] for row in grid)
        if len(groups) > 1:
            body = [row for row in body if any(map(any, row[labels:]))]
        aligned = [(sizes[index], index in left) for index in group]
        height = max(map(len, head))
        head = [[""] * (height - len(cell)) + cell for cell in head]
        found.append((_lines(head, aligned), [line for row in body for line in _lines(row, aligned)]))
    return found


def _wide(grid: Sequence[Sequence[Sequence[str]]]) -> int:
    """Number of characters of the widest line of a table."""
    sizes = _sizes(grid)
    return sum(sizes) + len(GAP) * (len(sizes) - 1)


def _sizes(grid: Sequence[Sequence[Sequence[str]]]) -> list[int]:
    return [max(cell_len(line) for cell in column for line in cell) for column in zip(*grid, strict=True)]


def _groups(sizes: Sequence[int], columns: int, labels: int) -> list[list[int]]:
    """Indices of the columns of each table: the first `labels` columns in all, the others in turn."""
    first = list(range(labels))
    beside = sum(sizes[:labels]) + len(GAP) * (labels - 1)
    groups, taken = [[*first]], beside
    for index, size in enumerate(sizes[labels:], start=labels):
        if taken + len(GAP) + size > columns and len(groups[-1]) > labels:
            groups.append([*first])
            taken = beside
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
    """Wrap the lines of a cell between words, and after commas in words longer than `LABELS`, such as
    `[retain_ratio=0.1,similarity_threshold=0.7]`."""
    lines = []
    for text in cell:
        line = ""
        for word in re.findall(r"\S+\s*", text):
            parts = re.split(r"(?<=,)(?=\S)", word) if cell_len(word.rstrip()) > LABELS else [word]
            for part in parts:
                if line and cell_len((line + part).rstrip()) > columns:
                    lines.append(line.rstrip())
                    line = ""
                line += part
        lines.append(line.rstrip())
    return lines


def print_answers(question: str, answers: Sequence[tuple[str, str]], verdict: bool = True) -> None:
    """Print a question and the answer of each run, beside its name where there is room, else below it.

    Args:
        question: the question.
        answers: name and answer of each run.
        verdict: whether to print, too, if the answers are the same.
    """
    room = width() - len("question" + GAP)
    names = max(cell_len(name) for name, _ in answers)
    rows = [("question", _folded(question, room))]
    for number, (name, said) in enumerate(answers):
        beside = room - names - len(GAP)
        if beside >= BESIDE:
            first, *others = _folded(said, beside)
            lines = [f"{name}{' ' * (names - cell_len(name))}{GAP}{first}"]
            lines += [" " * (names + len(GAP)) + line for line in others]
        else:
            lines = _folded(name, room) + [GAP + line for line in _folded(said, room - len(GAP))]
        rows.append(("" if number else "answer", lines))
    if verdict:
        same = len({said for _, said in answers}) == 1
        rows.append(("", ["the same answer" if same else "the answers differ"]))
    for head, lines in rows:
        for number, line in enumerate(lines):
            print(f"{'' if number else head:8}{GAP}{line}".rstrip())


def _folded(text: str, columns: int) -> list[str]:
    """Fold `text` into lines of at most `columns` cells; wide characters take two."""
    lines = Text("\n".join(text.splitlines())).wrap(Console(), max(2, columns))
    return [line.plain.rstrip() for line in lines]
