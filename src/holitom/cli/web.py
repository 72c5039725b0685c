"""`holitom web`: a page to try it in a browser."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import typer

from holitom.bundled import BUNDLED_FRAMES, BUNDLED_MODEL, DEMO_QUESTION, DEMO_VIDEO
from holitom.cli.app import app, note, notes, quiet_transformers
from holitom.errors import SettingsError


@app.command()
def web(
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint's folder or Hugging Face id. [default: the bundled tiny model]"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to serve at; 0.0.0.0 lets everybody on the network in.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="[default: the first free one from 7860 on]")] = None,
    max_megabytes: Annotated[int, typer.Option(help="Largest upload.")] = 200,
    max_minutes: Annotated[float, typer.Option(help="Longest video.")] = 10.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Try holitom in a browser: a video, a question, merged and full tokens side by side.

    Ends with Ctrl-C.
    """
    if min(max_megabytes, max_minutes, max_new_tokens) <= 0:
        raise SettingsError("max-megabytes, max-minutes and max-new-tokens must be above 0")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was uploaded is removed
    with TemporaryDirectory(prefix="holitom-web-") as uploads:
        # Gradio reads these as it is imported; its own folder would outlive the server.
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}
        with notes.status("Loading PyTorch and Gradio"):
            from holitom.ask import load_model
            from holitom.web.answering import Desk, Request
            from holitom.web.page import Limits, build, launch
            from holitom.web.words import Loaded

        name = model or str(BUNDLED_MODEL)
        quiet_transformers(name)
        title = "the bundled model" if model is None else Path(name).name
        note(f"Loading {title}")
        desk = Desk(*load_model(name, dtype, device), title, max_new_tokens, 60 * max_minutes)
        with notes.status("Warming up"):
            for _ in desk.answers(Request(DEMO_VIDEO, DEMO_QUESTION, frames=BUNDLED_FRAMES)):
                pass
        limits = Limits(max_megabytes, max_minutes)
        page = build(desk, Loaded(model, dtype, device, max_new_tokens), limits)
        print(launch(page, host, port, limits), flush=True)
        note("Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            Event().wait()
        page.close(verbose=False)
        desk.close()
