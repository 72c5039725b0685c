"""`holitom bench lmms-task`: MovingDigits-QA for lmms-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holitom.cli.app import bench, working
from holitom.cli.options import check_least
from holitom.errors import SettingsError


@bench.command("lmms-task")
def bench_lmms_task(
    folder: Annotated[Path, typer.Argument(help="Where the videos, questions and task file go.")],
    per_task: Annotated[int, typer.Option(help="Held-out questions of each of the seven tasks.")] = 60,
) -> None:
    """Write MovingDigits-QA as an lmms-eval task: questions of `bench accuracy` and lossless video files."""
    check_least("per-task", per_task)
    from holitom.integrations.lmms_eval.task import write_task

    try:
        with working("Writing videos"):
            task = write_task(folder, per_task)
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from error
    print(f"lmms_eval --include_path {task.parent} --tasks {task.stem} --model holitom")
