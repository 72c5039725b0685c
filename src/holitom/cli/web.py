"""`holitom web`: a page in a browser to try methods on videos."""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import suppress
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import typer

from holitom.bundled import (
    ABOUT_BUNDLED,
    BUNDLED_FRAMES,
    DEMO_QUESTION,
    DEMO_VIDEO,
    checkpoint,
    is_bundled,
    short_title,
)
from holitom.cli.app import app, note, quiet_transformers, working
from holitom.cli.options import Device, Dtype, MaxNewTokens, Model, check_run
from holitom.errors import SettingsError


@app.command()
def web(
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to serve at; 0.0.0.0 serves everybody on the network.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="[default: the first free one from 7860 on]")] = None,
    max_megabytes: Annotated[int, typer.Option(help="Largest upload.")] = 200,
    max_minutes: Annotated[float, typer.Option(help="Longest video.")] = 10.0,
    max_new_tokens: MaxNewTokens = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Try holitom in a browser: a video, a question, merged and full tokens side by side.

    Ends with Ctrl-C.
    """
    if not all(limit > 0 for limit in (max_megabytes, max_minutes, max_new_tokens)):
        raise SettingsError("max-megabytes, max-minutes and max-new-tokens must be above 0")
    check_address(host, port)
    check_run(dtype, device, model=model)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that uploads are removed
    with TemporaryDirectory(prefix="holitom-web-") as uploads:
        # Gradio reads these; its default folder would not be removed when the server ends, and runs would be
        # stored in the browser with their pictures, beyond the session.
        settings = {"TEMP_DIR": uploads, "ANALYTICS_ENABLED": "False", "RUN_HISTORY": "False"}
        os.environ |= {f"GRADIO_{name}": value for name, value in settings.items()}
        with working("Loading PyTorch and Gradio"):
            settle_matplotlib()
            from holitom.ask import load_model
            from holitom.web.answering import Desk, Request
            from holitom.web.copying import Loaded
            from holitom.web.page import Limits, build, launch

        name = checkpoint(model)
        quiet_transformers(name)
        title = short_title(model)
        note(f"Loading {title}")
        banner = ABOUT_BUNDLED if is_bundled(model) else None
        desk = Desk(*load_model(name, dtype, device), title, max_new_tokens, 60 * max_minutes, banner)
        with working("Warming up"):
            for _ in desk.answers(Request(DEMO_VIDEO, DEMO_QUESTION, frames=BUNDLED_FRAMES)):
                pass
        limits = Limits(max_megabytes, max_minutes)
        page = build(desk, Loaded(model, dtype, device, max_new_tokens), limits)
        print(launch(page, desk, host, port, limits), flush=True)
        note("Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            Event().wait()
        page.close(verbose=False)
        desk.close()


def settle_matplotlib() -> None:
    """Choose matplotlib's backend, where matplotlib is installed.

    Gradio asks matplotlib for its backend before each event, in the thread that serves all users; without a
    choice the first question would wait seconds while matplotlib tries its backends.
    """
    with suppress(ImportError):
        import matplotlib

        matplotlib.use("agg")


def check_address(host: str, port: int | None) -> None:
    """Raise a `SettingsError` unless a server can listen at `host` and `port` (None: at any port)."""
    if port is not None and not 1 <= port <= 65535:
        raise SettingsError(f"port must be in 1..65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise SettingsError(
            f"host {host!r} is no address; 127.0.0.1 serves this machine, 0.0.0.0 everybody on the network"
        ) from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(f"port {port} at {host} is in use; choose another --port") from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise SettingsError(
                    f"host {host!r} is no address of this machine; 127.0.0.1 serves this machine, 0.0.0.0 "
                    "everybody on the network"
                ) from None
            raise SettingsError(
                f"cannot serve at {host}:{port}: {error.strerror}; choose another --host or --port"
            ) from None
