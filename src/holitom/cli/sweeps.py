"""What the benchmarks on MovingDigits-QA share: options, the output folder, progress, and results on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holitom.cli.app import note, progress
from holitom.cli.tables import print_notes, print_table
from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.bench.answers import Answers
    from holitom.bench.questions import Item
    from holitom.bench.settings import Setting

Tasks = Annotated[str, typer.Option(help="all, or some of the seven with commas between.")]
FirstVideo = Annotated[
    int, typer.Option(help="Video that the questions begin at. For trying out what is developed: 100000.")
]
Batch = Annotated[int, typer.Option(help="Questions answered at a time.")]
MarkdownTable = Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")]
Report = Annotated[
    Path | None,
    typer.Option(help="Answer nothing: draw and print again what this folder's results.json holds."),
]


def usually(about: str, usual: object) -> Any:
    """An option whose default depends on --quick; `usual` is the one without it, for the help."""
    return typer.Option(help=f"{about} [default: {usual}]")


def folder_of(held: str, usual: Path) -> Any:
    """The option of the output folder; `held` says what the folder holds."""
    return typer.Option(
        help=f"Folder of {held}; a killed run goes on there. [default: {usual}, with --quick {usual}-quick]"
    )


def output_folder(output: Path | None, usual: Path, quick: bool) -> Path:
    """Return the folder of `--output`, or its default for a run with or without `--quick`."""
    return output or (usual.with_name(f"{usual.name}-quick") if quick else usual)


@contextmanager
def answering(
    settings: Sequence[Setting], files: Sequence[Answers], items: Sequence[Item], folder: Path
) -> Iterator[Callable[[int], None]]:
    """Say what is refused and what is answered already, and show progress; yield what advances it.

    Args:
        settings: all settings.
        files: the answers of the settings that are not refused.
        items: the questions.
        folder: folder of the answers.
    """
    if refused := [setting.title for setting in settings if setting.refused]:
        note(f"Refused, as the table will say: {', '.join(refused)}")
    done, total = sum(len(file.done) for file in files), len(files) * len(items)
    note(f"{len(items):,} questions under {len(files)} settings, {done:,} of {total:,} answered, in {folder}")
    with progress("Answering", total, done) as advance:
        yield advance


def read_results(folder: Path, *needed: str) -> dict[str, Any]:
    """Read `results.json` in `folder`, which must have the entries `needed`.

    Raises:
        SettingsError: there is none, or it is another benchmark's.
    """
    path = folder / "results.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = [found[name] for name in ("settings", "bootstrap", *needed)]
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: no such file; the same command with --output {folder} in the place of --report makes it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is no results file of this benchmark") from error
    return found


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results as JSON and CSV into `folder`."""
    from holitom.bench.tables import as_csv

    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.csv").write_text(as_csv(results))


def publish(results: dict[str, Any], folder: Path, markdown: bool) -> None:
    """Write results into `folder`, and print the table."""
    from holitom.bench.tables import accuracy_table, as_markdown

    write(results, folder)
    if markdown:
        print(as_markdown(results))
        return
    heads, rows, below = accuracy_table(results)
    print_table(heads, rows)
    print_notes("", *below)
