"""The `holitom` application: its groups of commands, and functions that commands share.

Answers and tables go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from holitom.bundled import checkpoint, title_of
from holitom.errors import SettingsError

# Modules that --help does not need are imported in functions: torch and transformers take seconds.
from holitom.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from holitom.video import Fit, Sampling, Video
    from holitom.video.opening import Opened


class Group(TyperGroup):
    """A group whose list of commands wraps what each does, where typer would cut it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, one.get_short_help_str(1000))
                    for name, one in commands.items()
                    if one and not one.hidden
                ]
            )


app = typer.Typer(
    name="holitom",
    cls=Group,
    help="Fast video language models: merge redundant visual tokens, keep the answer.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
bench = typer.Typer(cls=Group, help="Print the figures that the documentation quotes.", rich_markup_mode=None)
app.add_typer(bench, name="bench")

# Markup is off: file names and answers may hold brackets.
notes = Console(stderr=True, highlight=False, markup=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holitom {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show `text` on a terminal during the block; the function that it yields shows another text."""
    if not notes.is_terminal:
        yield lambda text: None
        return
    from rich.text import Text

    with notes.status(Text(text)) as status:  # of plain text it would read brackets as markup
        yield lambda text: status.update(Text(text))


def note(text: str) -> None:
    """Print lines to stderr; on a terminal they are wrapped between words, in a pipe each stays whole."""
    if notes.is_terminal:
        wrapped = (
            textwrap.fill(line, notes.width, break_on_hyphens=False, break_long_words=False)
            for line in text.splitlines()
        )
        text = "\n".join(wrapped)
    notes.print(text, style="dim", soft_wrap=True)


def check_video(path: Path) -> Opened:
    """Report a file that is no video, before a model is loaded; the checked file."""
    with working("Checking the video"):
        from holitom.video.opening import open_video

        return open_video(path)


def read_video(path: Path, sampling: Sampling, fit: Fit | None = None) -> Video:
    """Read the frames that `sampling` chooses, with a progress bar; `fit` resizes each."""
    from holitom.video import load_sampled

    with _bar() as bar:
        task = bar.add_task(f"Decoding {path.name}", total=None)
        video = load_sampled(
            path, sampling, lambda done, of: bar.update(task, completed=done, total=of), fit=fit
        )
    tell_frames(path, video)
    return video


def tell_frames(path: Path, video: Video) -> None:
    """Say which frames of a file were read."""
    told = video.metadata
    note(f"{path.name}: {len(video.frames)} of {told.total_num_frames} frames, {told.width} x {told.height}")


def _bar(*more: ProgressColumn) -> Progress:
    """A progress bar for a terminal, with `more` columns."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        *(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *more),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
        # Settings of a sweep take turns and differ in speed, so the time left is estimated from many steps.
        speed_estimate_period=900,
    )


def ratios(retain: str) -> list[float]:
    try:
        return [float(part) for part in retain.split(",")]
    except ValueError:
        raise SettingsError(f"retain must be numbers such as 0.25,0.1, not {retain!r}") from None


@contextmanager
def progress(text: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; the function that it yields advances the bar by some steps."""
    from rich.progress import TimeElapsedColumn, TimeRemainingColumn

    with _bar(TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(text, total=total, completed=done)
        yield lambda steps: bar.advance(task, steps)


def load(model: str | None, dtype: str = "auto", device: str = "auto") -> tuple[Any, Any]:
    """Load the model and the processor of checkpoint `model`; None: the first bundled one."""
    with working("Loading PyTorch"):
        from holitom.ask import load_model

    name = checkpoint(model)
    quiet_transformers(name)
    note(f"Loading {title_of(model)}")
    return load_model(name, dtype, device)


def quiet_transformers(model: str) -> None:
    """Silence transformers' warnings, and its progress bars where no weights are downloaded."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    if Path(model).is_dir():
        logging.disable_progress_bar()
