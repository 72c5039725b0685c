"""Take pictures of `holitom web` in every state, wide and narrow, light and dark, for review.

    python tools/web_shots.py /tmp/pictures
    python tools/web_shots.py /tmp/pictures --size phone --scheme dark

It starts a server, opens the page, asks, changes a setting, asks a question that merging answers wrongly,
compares four methods, provokes an error, and prints layout shifts (CLS) and the messages of the console.
Needs `holitom[web]`, Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from web_page import SHIFTS, chromium, ready, serving

SIZES = {
    "desk": {"width": 1280, "height": 800},
    "laptop": {"width": 1180, "height": 800},
    "tablet": {"width": 900, "height": 1100},
    "phone": {"width": 390, "height": 844},
}
SCHEMES = ("light", "dark")


class Album:
    """Pictures of one tab, numbered in the order they are taken."""

    def __init__(self, tab: Any, folder: Path, name: str) -> None:
        self.tab, self.folder, self.name, self.count = tab, folder, name, 0

    def keep(self, state: str, whole: bool = False) -> None:
        """Take a picture of the screen, or of the `whole` page on a screen of its height."""
        self.count += 1
        size = self.tab.viewport_size
        if whole:
            height = self.tab.evaluate("document.documentElement.scrollHeight")
            self.tab.set_viewport_size({**size, "height": height})  # pictures below the screen load late
            self.tab.wait_for_timeout(500)
        self.tab.screenshot(path=self.folder / f"{self.name}-{self.count}-{state}.png")
        self.tab.set_viewport_size(size)


def press(tab: Any, selector: str) -> None:
    """Click by script, since layout shifts after a person's input do not count."""
    tab.evaluate("document.querySelector('#status p').dataset.old = ''")
    tab.evaluate("selector => document.querySelector(selector).click()", selector)


def done(tab: Any) -> None:
    tab.wait_for_selector("#status p:not([data-old]):has-text('Done')")


def states(tab: Any, album: Album) -> None:
    """Bring the page into each of its states, one after another."""
    album.keep("opened")
    tab.evaluate(SHIFTS)
    press(tab, "#ask")
    tab.wait_for_selector("#merged .answer:is(.running, .done)")
    album.keep("streaming")
    done(tab)
    tab.wait_for_timeout(400)
    print(f"{album.name}: shifts {tab.evaluate('window.shifts'):.4f}")
    album.keep("asked")
    album.keep("asked", whole=True)
    tab.fill("#retain input[type=number]", "0.5")
    tab.press("#retain input[type=number]", "Tab")
    tab.wait_for_selector("#stale p:visible")
    tab.evaluate("scrollTo(0, 0)")
    album.keep("stale")
    tab.fill("#retain input[type=number]", "0.1")
    tab.press("#retain input[type=number]", "Tab")
    press(tab, "button.example.hurts")
    done(tab)
    tab.evaluate("scrollTo(0, 0)")
    album.keep("differing")
    tab.click("[role=tab]:has-text('Compare')")
    tab.click("#many input")
    tab.keyboard.type("framefusion")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Escape")
    tab.click("#compare-ask")
    tab.wait_for_selector("#compare-status p:has-text('Done')")
    album.keep("compared", whole=True)
    for name in ("Runs", "Copy"):
        tab.click(f"[role=tab]:has-text('{name}')")
        tab.wait_for_timeout(300)
        album.keep(name.lower(), whole=True)
    tab.click("#advanced button")
    tab.fill("#question textarea", "")
    press(tab, "#ask")
    tab.wait_for_selector("#status p[role=alert]")
    tab.evaluate("scrollTo(0, 0)")
    album.keep("error", whole=True)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where PNG files are written")
    parser.add_argument("--size", choices=SIZES, action="append", help="[default: all]")
    parser.add_argument("--scheme", choices=SCHEMES, action="append", help="[default: both]")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as uploads, serving(Path(uploads)) as url, chromium() as browser:
        for size in asked.size or SIZES:
            for scheme in asked.scheme or SCHEMES:
                tab = browser.new_page(viewport=SIZES[size], color_scheme=scheme)
                tab.set_default_timeout(120_000)
                tab.on("console", lambda message: print("console:", message.text))
                states(ready(tab, url), Album(tab, asked.folder, f"{size}-{scheme}"))
                tab.close()


if __name__ == "__main__":
    main()
