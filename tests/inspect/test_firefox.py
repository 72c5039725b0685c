"""The page in Firefox, where one is installed: its script draws there too.

Firefox takes the picture by itself: Playwright drives builds of its own alone, and Debian's firefox-esr does
not know all that Playwright asks of it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.inspections import made_up

from holitom.inspect import Fate, page
from holitom.inspect.paint import COLORS

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(FIREFOX is None, reason="needs Firefox")]


@pytest.mark.parametrize("width", [1280, 390])
def test_firefox_draws_every_fate(tmp_path: Path, width: int) -> None:
    assert FIREFOX is not None
    (tmp_path / "page.html").write_text(page(made_up(frames=4)), encoding="utf-8")
    picture = tmp_path / "page.png"
    (tmp_path / "profile").mkdir()
    asked = ["--headless", "--profile", str(tmp_path / "profile"), "--screenshot", str(picture)]
    size = f"--window-size={width},3000"
    command = [FIREFOX, *asked, size, (tmp_path / "page.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shown = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    for fate in (Fate.KEPT, Fate.CENTER, Fate.JOINED):
        near = np.abs(shown - np.array(COLORS[fate])).max(-1) < 12
        assert near.sum() > 200, fate.name  # more than the legend's swatch has
