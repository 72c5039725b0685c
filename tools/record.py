"""Record `holitom web` and the terminal as small animated pictures for the documentation.

    python tools/record.py docs/images     # web.webp and terminal.webp

The page is the real one, driven in Chromium; the terminal shows what `holitom ask --compare --reuse` printed
when it ran. Needs `holitom[web]`, Playwright and a Chromium. The pictures show times: run it on idle cores.
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

WIDE, HIGH = 960, 800  # about as wide as a README shows pictures
QUALITY = 85
Frames = list[tuple[Image.Image, int]]  # picture, and for how many milliseconds it is shown


def save(frames: Frames, path: Path) -> None:
    """Write an animation that goes round; of each picture WebP keeps only what has changed."""
    pictures, times = zip(*joined(frames), strict=True)
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=list(times),
        loop=0,
        quality=QUALITY,
        method=6,
        allow_mixed=True,
    )
    print(
        f"{path}: {len(pictures)} pictures, {sum(times) / 1000:.0f} s, {path.stat().st_size / 1024:.0f} KiB"
    )


def joined(frames: Frames) -> Frames:
    """Join pictures that repeat into one that is shown for longer."""
    found: Frames = []
    for picture, milliseconds in frames:
        if found and found[-1][0].tobytes() == picture.tobytes():
            found[-1] = (picture, found[-1][1] + milliseconds)
        else:
            found.append((picture, milliseconds))
    return found


class Camera:
    """Pictures of a tab, with a dot where the pointer is."""

    def __init__(self, tab: Any) -> None:
        self.tab, self.at = tab, (0.0, 0.0)
        self.frames: Frames = []

    def shot(self, milliseconds: int) -> None:
        picture = Image.open(io.BytesIO(self.tab.screenshot())).convert("RGB")
        if self.at != (0.0, 0.0):
            x, y = self.at
            draw = ImageDraw.Draw(picture, "RGBA")
            draw.ellipse(
                (x - 13, y - 13, x + 13, y + 13), fill=(214, 0, 110, 70), outline=(214, 0, 110, 220), width=2
            )
        self.frames.append((picture, milliseconds))

    def point(self, target: Any, click: bool = True) -> None:
        """Move to the middle of `target`, and press there."""
        box = target.bounding_box()
        self.at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.tab.mouse.move(*self.at)
        self.tab.wait_for_timeout(250)
        self.shot(700)
        if click:
            self.tab.evaluate("document.querySelector('#status p').dataset.old = ''")
            self.tab.mouse.click(*self.at)

    def look(self, place: str, milliseconds: int) -> None:
        """Scroll to what the JavaScript expression `place` gives, and show it for so long."""
        self.tab.evaluate(f"scrollTo(0, {place}.getBoundingClientRect().top + scrollY - 16)")
        self.tab.wait_for_timeout(700)  # pictures below the screen load late
        self.shot(milliseconds)

    def away(self) -> None:
        """Take the pointer away."""
        self.at = (0.0, 0.0)
        self.tab.mouse.move(0, 0)

    def until(self, selector: str) -> None:
        """Pictures until there is such an element."""
        for _ in range(400):
            self.shot(120)
            if self.tab.locator(selector).count():
                break
        self.tab.wait_for_timeout(400)


DONE = "#status p:not([data-old]):has-text('Done')"


def page(url: str, tab: Any) -> Frames:
    """Ask about the demo, look at what was merged, ask an example where merging hurts, compare methods."""
    camera = Camera(ready(tab, url))
    tab.wait_for_function("document.querySelector('#player video').readyState > 3")
    tab.wait_for_timeout(500)
    camera.shot(1500)
    camera.point(tab.locator("#ask"))
    camera.away()
    camera.until(DONE)
    camera.shot(2800)
    camera.look("document.querySelector('#map holitom-map').shadowRoot.querySelector('#h-tokens')", 1800)
    camera.point(tab.locator('#map canvas[data-frame="2"]'), click=False)
    camera.shot(2600)
    camera.away()
    tab.evaluate("scrollTo(0, 0)")
    tab.wait_for_timeout(300)
    camera.point(tab.locator("button.example.hurts").first)
    camera.away()
    camera.until(DONE)
    camera.shot(3000)
    camera.look("document.querySelector('#more')", 700)
    camera.point(tab.locator("[role=tab]:has-text('Compare')"))
    tab.wait_for_timeout(300)
    camera.point(tab.locator("#compare-ask"))
    camera.away()
    camera.until("#compare-status p:has-text('Done')")
    camera.look("document.querySelector('#compared')", 4000)
    return camera.frames


def terminal() -> Frames:
    """`holitom ask --compare --reuse`, typed and answered."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-m", "holitom", "ask", "--compare", "--reuse"],
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    typed = "$ holitom ask --compare --reuse"
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
    parser.add_argument("folder", type=Path, help="where both are written")
    folder = parser.parse_args().folder
    save(terminal(), folder / "terminal.webp")
    with TemporaryDirectory() as uploads, serving(Path(uploads)) as url, chromium() as browser:
        # Without the blinking of a cursor, less differs from picture to picture.
        tab = browser.new_page(viewport={"width": WIDE, "height": HIGH}, reduced_motion="reduce")
        tab.set_default_timeout(120_000)
        save(page(url, tab), folder / "web.webp")


if __name__ == "__main__":
    main()
