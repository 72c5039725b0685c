"""The command line, one file for each command.

A new command is a file whose functions are added to `app` (or `bench`), and its name in the imports below.
"""

from __future__ import annotations

import io
import sys

import typer

from holitom.cli import (  # noqa: F401  (each adds its command)
    accuracy,
    answer,
    ask,
    compare,
    flops,
    inspect,
    leaderboard,
    lists,
    lmms_task,
    long_videos,
    overhead,
    reuse,
    serve,
    speed,
    web,
)
from holitom.cli.app import app
from holitom.errors import HolitomError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the `holitom` command, and turn errors into one line on stderr and an exit code.

    An unexpected exception is raised with its traceback, and Python exits with code 1.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are not UTF-8
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        return int(app(given or ["--help"], standalone_mode=False) or 0)
    except (HolitomError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        code = 2
    except ImportError as error:  # the message names the missing extra
        message, code = str(error), 1
    except (KeyboardInterrupt, typer.Abort):
        message, code = "interrupted", 130
    print(f"holitom: error: {' '.join(message.split())}", file=sys.stderr)
    return code
