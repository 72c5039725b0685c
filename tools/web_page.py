"""Start `holitom web`, ask its first question, print how long the answer took, and keep a picture.

    python tools/web_page.py docs/images/web.png

Needs `holitom[web]`, Playwright and a Chromium (`make test-browser` installs what it can). The tests use the
server and the browser of this file.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
# Seconds to the first word, measured within the page, so that Playwright's own time does not count.
FIRST_ANSWER = """() => new Promise(done => {
    const start = performance.now();
    const look = () => document.querySelector("#merged .answer:is(.running, .done) .said:not(:has(.quiet))")
        ? done((performance.now() - start) / 1000) : setTimeout(look, 5);
    document.querySelector("#ask").click();
    look();
})"""
# The sum of layout shifts (CLS) from now on, without those that follow a click.
SHIFTS = """() => {
    window.shifts = 0;
    new PerformanceObserver(list => list.getEntries().forEach(one => {
        if (!one.hadRecentInput) window.shifts += one.value;
    })).observe({type: "layout-shift", buffered: false});
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Playwright's own Chromium, or the system's.

    Raises:
        RuntimeError: there is neither.
    """
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch()
        except Error as error:
            system = shutil.which("chromium") or shutil.which("google-chrome")
            if not system:
                missing = "no Chromium: `playwright install chromium`, or your system's package"
                raise RuntimeError(missing) from error
            browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        yield browser
        browser.close()


class Server(NamedTuple):
    """A running `holitom web`: its address and its process."""

    url: str
    pid: int

    def resident(self) -> float:
        """Read the resident memory of the process, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024 / 1e6


@contextmanager
def serving(uploads: Path, *options: str) -> Iterator[str]:
    """Start a `holitom web`, as `served` does; give its address."""
    with served(uploads, *options) as server:
        yield server.url


@contextmanager
def served(uploads: Path, *options: str) -> Iterator[Server]:
    """Start a `holitom web` that keeps its temporary files in `uploads`, and end it with the block.

    Raises:
        RuntimeError: it does not start, or does not end well.
    """
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, "-m", "holitom", "web", "--device", "cpu", *options],
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(uploads)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        if not url:
            raise RuntimeError("holitom web did not start; stderr says why")
        yield Server(url, server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            code = server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            raise
    if code:
        raise RuntimeError(f"holitom web ended with exit code {code}")


def ready(tab: Any, url: str) -> Any:
    """Open the page in `tab` and wait until a question can be asked."""
    tab.goto(url)
    tab.wait_for_selector("#ask")
    tab.wait_for_selector("#player video")
    return tab


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="PNG file to write")
    picture = parser.parse_args().picture
    with TemporaryDirectory() as uploads, serving(Path(uploads)) as url, chromium() as browser:
        tab = ready(browser.new_page(viewport={"width": 1180, "height": 1600}), url)
        seconds = tab.evaluate(FIRST_ANSWER)
        tab.wait_for_selector("#status p:has-text('Done')")
        tab.locator("#map #time image").first.wait_for()
        tab.mouse.move(0, 0)
        tab.wait_for_timeout(500)
        tab.screenshot(path=picture)
    print(f"first answer {seconds:.2f} s after the first click on a server just started; {picture}")


if __name__ == "__main__":
    main()
