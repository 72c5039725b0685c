"""Record `holitom web` and the terminal as small animated pictures for the documentation.

    python tools/record.py docs/images     # web.webp and terminal.webp

The page is the real one, driven in Chromium; the terminal shows what `holitom ask --compare` printed when it
ran. Needs `holitom[web]`, Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from web_page import ROOT, chromium, ready, serving

WIDE, HIGH = 1180, 760
Frames = list[tuple[Image.Image, int]]  # picture, and for how many milliseconds it is shown


def save(frames: Frames, path: Path) -> None:
    """Write an animation that goes round; WebP keeps letters sharp in little space."""
    pictures, times = zip(*frames, strict=True)
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=list(times), loop=0, quality=82, method=6
    )
    print(f"{path}: {len(frames)} pictures, {path.stat().st_size / 1024:.0f} KiB")


def page(url: str, tab: Any) -> Frames:
    """Ask about the demo, then an example where merging hurts, then compare methods."""
    frames: Frames = []

    def shot(milliseconds: int) -> None:
        frames.append((Image.open(io.BytesIO(tab.screenshot())).convert("RGB"), milliseconds))

    def done() -> None:
        for _ in range(200):
            if tab.locator("#status p:has-text('Done')").count():
                break
            shot(120)
        tab.wait_for_timeout(300)

    ready(tab, url)
    tab.mouse.move(0, 0)
    shot(1500)
    tab.evaluate("document.querySelector('#ask').click()")
    tab.wait_for_selector("#merged .answer:is(.running, .done)")
    done()
    shot(2500)
    hurts = tab.locator("button.example.hurts")
    if hurts.count():
        hurts.first.click()
        tab.mouse.move(0, 0)
        tab.wait_for_selector("#merged .answer:is(.waiting, .running)")
        done()
        shot(3000)
    tab.locator("#more").scroll_into_view_if_needed()
    tab.evaluate("document.querySelector('#map').scrollIntoView()")
    tab.wait_for_timeout(700)
    shot(2000)
    tab.evaluate("window.scrollBy(0, 620)")
    tab.wait_for_timeout(700)
    shot(3000)
    # What repeats is one picture, shown for longer.
    merged: Frames = []
    for picture, milliseconds in frames:
        if merged and merged[-1][0].tobytes() == picture.tobytes():
            merged[-1] = (picture, merged[-1][1] + milliseconds)
        else:
            merged.append((picture, milliseconds))
    return merged


def terminal() -> Frames:
    """`holitom ask --compare`, typed and answered."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-m", "holitom", "ask", "--compare"],
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    typed = "$ holitom ask --compare"
    lines = ran.stdout.rstrip().splitlines()
    font: Any = ImageFont.truetype("DejaVuSansMono.ttf", 17)
    wide, line = round(80 * font.getlength("0")) + 32, 23

    def drawn(text: str, shown: list[str]) -> Image.Image:
        image = Image.new("RGB", (wide, (len(lines) + 2) * line + 28), (20, 22, 27))
        draw = ImageDraw.Draw(image)
        for row, words in enumerate([text, "", *shown]):
            draw.text((16, 14 + row * line), words, (236, 238, 242), font)
        return image

    frames: Frames = [(drawn(typed[:end] + "_", []), 60) for end in range(2, len(typed) + 1)]
    return [*frames, (drawn(typed, []), 700), (drawn(typed, lines), 6000)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with TemporaryDirectory() as uploads, serving(Path(uploads)) as url, chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDE, "height": HIGH})
        tab.set_default_timeout(120_000)
        save(page(url, tab), folder / "web.webp")
    save(terminal(), folder / "terminal.webp")


if __name__ == "__main__":
    main()
