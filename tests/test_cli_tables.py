"""Tables in a terminal: nothing is cut, nothing is too wide, numbers stand to the right."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from holitom.cli.app import working
from holitom.cli.tables import LABELS, print_answers, print_notes, print_table, tables

words = st.text("abc123,.%@[]=", min_size=1, max_size=20)
numbers = st.text("0123456789,.%", min_size=1, max_size=14)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(60, 100), st.data())
def test_every_cell_is_whole_within_the_width(
    columns: int, rows: int, width: int, data: st.DataObject
) -> None:
    heads = ["", *data.draw(st.lists(words, min_size=columns, max_size=columns))]
    body = [
        [
            " ".join(data.draw(st.lists(words, min_size=1, max_size=4))),
            *data.draw(st.lists(numbers, min_size=columns, max_size=columns)),
        ]
        for _ in range(rows)
    ]
    found = tables(heads, body, width)
    lines = [line for head, below in found for line in (*head, *below)]
    assert max(map(cell_len, lines)) <= width
    text = " ".join(lines)
    for row in (heads, *body):
        for cell in row[1:]:
            assert cell in text
        for word in row[0].split():
            assert word in text


def test_a_table_that_fits_is_one() -> None:
    ((head, body),) = tables(("", "tokens", "MB"), [("full", "1,000", "4.9"), ("merged", "98", "0.5")], 80)
    assert head == ["        tokens   MB"]
    assert body == ["full     1,000  4.9", "merged      98  0.5"]


def test_one_that_does_not_is_two_with_the_same_first_column() -> None:
    rows = [(f"method {index}", *(f"{index}.{column}" for column in range(12))) for index in range(3)]
    found = tables(("", *(f"column {column:2}" for column in range(12))), rows, 80)
    assert len(found) == 2
    for head, body in found:
        assert [line.split("  ")[0] for line in body] == ["method 0", "method 1", "method 2"]
        assert max(map(len, (*head, *body))) <= 80


def test_a_long_label_is_wrapped_where_room_is_needed() -> None:
    rows = [("PyramidDrop [retain_ratio=0.46875]", "6,272, 3,136 @7, 1,568 @14, 784 @21", "18.0", "44.2%")]
    ((_, body),) = tables(("", "visual tokens", "TFLOPs", "share"), rows, 80)
    assert len(body) == 2
    assert body[1] == "[retain_ratio=0.46875]"
    assert len(body[1]) <= LABELS


@given(st.integers(40, 80), st.lists(st.lists(words, min_size=1, max_size=12), min_size=1, max_size=4))
def test_text_that_does_not_fit_beside_the_first_column_is_wrapped(
    width: int, texts: list[list[str]]
) -> None:
    rows = [(f"row {number}", " ".join(text), "0.5") for number, text in enumerate(texts)]
    found = tables(("", "what it does", "share"), rows, width, (0, 1))
    lines = [line for head, below in found for line in (*head, *below)]
    assert max(map(cell_len, lines)) <= width
    beside = " ".join(line[len("row 0") :] for line in found[0][1])
    assert [word for text in texts for word in text] == [word for word in beside.split() if word != "0.5"]


def test_long_answers_are_wrapped_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    said = "a digit " * 40
    wide = "\u74b0" * 120
    print_answers("What is " + "very " * 30 + "red?", [("full tokens", said), ("HoliTom", wide)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert "".join(lines).count("\u74b0") == 120
    assert " ".join(lines).count("digit") == 40
    assert lines[-1].strip() == "the answers differ"


def test_long_heads_are_wrapped_before_a_table_is_divided() -> None:
    label = "HoliTom [retain_ratio=0.1,similarity_threshold=0.7], reuse"
    rows = [
        ("vision tower computed", "100.0%", "20.9%", ""),
        ("decoding", "93.9 tokens/s", "132.2 tokens/s", ""),
    ]
    ((head, _),) = tables(("", "full tokens", label, ""), rows, 66)
    assert [" ".join(line.split()) for line in head] == [
        "HoliTom",
        "[retain_ratio=0.1,",
        "similarity_threshold=0.7],",
        "full tokens reuse",
    ]


def test_a_row_that_two_columns_name_has_both_in_each_table() -> None:
    rows = [("noise", "holitom", *["0.12345"] * 8), ("", "evs", *["0.54321"] * 8)]
    found = tables(("", "method", *[f"column {index}" for index in range(8)]), rows, 60, (0, 1), labels=2)
    assert len(found) == 2
    for _, body in found:
        labels = [[word for word in line.split() if "." not in word] for line in body]
        assert labels == [["noise", "holitom"], ["evs"]]


def test_a_divided_table_leaves_out_rows_that_have_no_cells_in_it() -> None:
    heads = ("", "method", *[f"column {index}" for index in range(8)])
    rows = [("noise", "holitom", *["0.12345"] * 8), ("", "evs", *["0.54321"] * 4, *[""] * 4)]
    ((_, whole),) = tables(heads, rows, 120, (0, 1), labels=2)
    (_, first), (_, second) = tables(heads, rows, 60, (0, 1), labels=2)
    assert len(whole) == len(first) == 2
    assert [line.split()[:2] for line in second] == [["noise", "holitom"]]


def test_a_pipe_is_as_wide_as_its_user_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_table(("", *(f"column {index}" for index in range(9))), [("row", *["1,234.5"] * 9)])
        print_notes("a note of some words " * 10)
        print_answers("a question of some words " * 10, [("full tokens", "said " * 40)])
        longest = max(map(cell_len, capsys.readouterr().out.splitlines()))
        assert columns - 12 < longest <= columns


@given(st.integers(40, 90), st.lists(st.lists(words, min_size=1, max_size=30), min_size=2, max_size=3))
def test_answers_are_whole_within_the_width_whatever_the_runs_are_called(
    width: int, texts: list[list[str]]
) -> None:
    named = ["full tokens", "HoliTom w/o M [retain_ratio=0.1,similarity_threshold=0.7], reuse", "right"]
    answers = [(name, " ".join(text)) for name, text in zip(named, texts, strict=False)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setenv("COLUMNS", str(width))
        print_answers("What is red?", answers)
    lines = out.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    shown = "".join(out.getvalue().split())
    for name, said in answers:
        assert "".join(name.split()) + "".join(said.split()) in shown


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", "[bold]"), [("[/red]", "1")])
    print_answers("[x]", [("a", "[bold]b[/bold]"), ("c", "[bold]b[/bold]")])
    out = capsys.readouterr().out
    assert "[/red]" in out
    assert out.count("[bold]b[/bold]") == 2
    assert "the same answer" in out


def test_what_a_terminal_says_meanwhile_may_hold_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    """File names and methods are no markup."""
    terminal = Console(file=io.StringIO(), force_terminal=True, markup=False, width=80)
    monkeypatch.setattr(sys.modules["holitom.cli.app"], "notes", terminal)
    with working("Reading [/b] of [one].mp4") as say:
        say("Answering (evs[max_frames=3])")
    assert isinstance(terminal.file, io.StringIO)
    assert "Answering (evs[max_frames=3])" in terminal.file.getvalue()  # earlier text may never be drawn
