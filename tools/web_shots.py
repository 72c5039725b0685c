"""Pictures of `holitom web` and of the pages of `inspect`, for review: wide and narrow, light and dark.

    python tools/web_shots.py /tmp/pictures

It starts a server, opens the page, asks, compares, and prints how far things moved meanwhile (CLS) and what
the console said. Needs `holitom[web]`, Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from web_page import SHIFTS, chromium, ready, serving

SIZES = {"desk": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where PNG files are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    def keep(tab: Any, name: str, whole: bool = False) -> None:
        tab.wait_for_timeout(400)
        tab.screenshot(path=folder / f"{name}.png", full_page=whole)

    with TemporaryDirectory() as uploads, serving(Path(uploads)) as url, chromium() as browser:
        for size, viewport in SIZES.items():
            for scheme in ("light", "dark"):
                tab = browser.new_page(viewport=viewport, color_scheme=scheme)
                tab.on("console", lambda message: print("console:", message.text))
                ready(tab, url)
                keep(tab, f"{size}-{scheme}-1-opened")
                tab.evaluate(SHIFTS)
                tab.evaluate("document.querySelector('#ask').click()")  # no input: all shifts count
                tab.wait_for_selector("#status p:has-text('Done')")
                tab.wait_for_timeout(300)
                print(f"{size} {scheme}: shifts {tab.evaluate('window.shifts'):.4f}")
                keep(tab, f"{size}-{scheme}-2-asked")
                keep(tab, f"{size}-{scheme}-3-whole", whole=True)
                if scheme == "dark":
                    tab.close()
                    continue
                tab.click("[role=tab]:has-text('Compare')")
                tab.click("#compare-ask")
                tab.wait_for_selector("#compare-status p:has-text('Done')", timeout=60_000)
                keep(tab, f"{size}-{scheme}-4-compared", whole=True)
                tab.click("[role=tab]:has-text('This session')")
                keep(tab, f"{size}-{scheme}-5-session", whole=True)
                tab.click("[role=tab]:has-text('Copy')")
                keep(tab, f"{size}-{scheme}-6-copy", whole=True)
                tab.close()


if __name__ == "__main__":
    main()
