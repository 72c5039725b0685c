"""Drive the system's Firefox over Marionette, its own remote protocol.

Playwright drives only its own builds of Firefox, which some machines cannot download. Messages of a page's
console come over WebDriver BiDi; on Firefox's output they cannot be told from Firefox's own messages.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PATIENCE = 60.0  # seconds
ENTER = "\ue007"  # the key, as WebDriver writes it
PREFERENCES = """user_pref("marionette.port", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.update.auto", false);
"""


def firefox_here() -> str | None:
    """Find the system's Firefox; None where it is not installed."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


class Firefox:
    """One window of Firefox.

    Args:
        port: at which its Marionette listens.
    """

    def __init__(self, port: int) -> None:
        from websockets.sync.client import connect  # installed by `make test-browser` alone

        self._number = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=2 * PATIENCE)
        self._receive()  # what it is
        session = self._send("WebDriver:NewSession", webSocketUrl=True)
        self._open = ExitStack()
        self._said = self._open.enter_context(connect(session["capabilities"]["webSocketUrl"]))
        subscribe = {"id": 1, "method": "session.subscribe", "params": {"events": ["log.entryAdded"]}}
        self._said.send(json.dumps(subscribe))
        self._errors: list[str] = []

    def close(self) -> None:
        """Close the connection; Firefox keeps running."""
        self._open.close()
        self._socket.close()

    def open(self, url: str) -> None:
        """Go to a page, after the messages of the page before have come."""
        self._send("WebDriver:Navigate", url="about:blank")
        self.errors()
        self._errors = []
        self._send("WebDriver:Navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        """Resize the window to this width and height, or as near as Firefox allows."""
        self._send("WebDriver:SetWindowRect", width=width, height=height)

    def run(self, script: str, *args: Any) -> Any:
        """Run the body of a function in the page; return its result."""
        return self._send("WebDriver:ExecuteScript", script=script, args=list(args))["value"]

    def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page.

        Raises:
            TimeoutError: it does not within a minute.
        """
        ends = time.monotonic() + PATIENCE
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > ends:
                raise TimeoutError(condition)
            time.sleep(0.05)

    def press(self, selector: str) -> None:
        """Click an element as a mouse does."""
        self._send("WebDriver:ElementClick", id=self._found(selector))

    def type(self, selector: str, text: str) -> None:
        """Empty a field and type into it; `ENTER` is a key too."""
        element = self._found(selector)
        self._send("WebDriver:ElementClear", id=element)
        self._send("WebDriver:ElementSendKeys", id=element, text=text)

    def errors(self) -> list[str]:
        """Errors that this page has put on the console, and errors of its scripts; waits half a second."""
        with suppress(TimeoutError):
            while True:
                said = json.loads(self._said.recv(timeout=0.5))
                if said.get("method") == "log.entryAdded" and said["params"]["level"] == "error":
                    self._errors.append(said["params"]["text"])
        return list(self._errors)

    def _found(self, selector: str) -> str:
        found = self._send("WebDriver:FindElement", using="css selector", value=selector)["value"]
        return str(next(iter(found.values())))

    def _send(self, command: str, **parameters: Any) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, command, parameters])
        self._socket.sendall(f"{len(message)}:{message}".encode())
        _, _, error, result = self._receive()
        if error is not None:
            raise RuntimeError(f"{command}: {error['message']}")
        return result

    def _receive(self) -> Any:
        head = b""
        while not head.endswith(b":"):
            head += self._read(1)
        return json.loads(self._read(int(head[:-1])))

    def _read(self, count: int) -> bytes:
        read = b""
        while len(read) < count:
            part = self._socket.recv(count - len(read))
            if not part:
                raise RuntimeError("Firefox has closed the connection")
            read += part
        return read


@contextmanager
def firefox() -> Iterator[Firefox]:
    """Start a headless Firefox with a profile of its own, and remove both when the block ends.

    Raises:
        RuntimeError: there is none, or it does not start.
    """
    path = firefox_here()
    if path is None:
        raise RuntimeError("no Firefox: your system's package (Debian: firefox-esr)")
    with TemporaryDirectory() as folder:
        profile = Path(folder)
        (profile / "user.js").write_text(PREFERENCES, encoding="utf-8")
        remote = ["--headless", "--marionette", "--remote-debugging-port=0", "--no-remote"]
        process = subprocess.Popen(
            [path, *remote, "--profile", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with closing(Firefox(_port(profile / "MarionetteActivePort", process))) as window:
                yield window
        finally:
            process.terminate()
            process.wait(30)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """Read the port that Firefox has written into its profile."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and process.poll() is None:
        if file.exists() and (text := file.read_text(encoding="utf-8").strip()):
            return int(text)
        time.sleep(0.1)
    raise RuntimeError("Firefox does not start")
