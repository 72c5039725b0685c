"""The page in a browser: by mouse, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.contrast import CONTRAST
from support.inspections import made_up
from web_page import chromium

from holitom.bench.leaderboard_page import leaderboard_page
from holitom.inspect import Inspection, embed, page

pytestmark = pytest.mark.browser

LEADERBOARD = Path(__file__).parents[2] / "docs" / "results" / "leaderboard"
TALL, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
Open = Callable[..., Any]
SEEN = "row => [...row.cells].map(cell => getComputedStyle(cell).display != 'none')"
"""Whether each cell of a table's row is seen: a head stands above its own cells alone if they agree."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open the page of an inspection; nothing may be asked of the network or said on the console."""
    said: list[str] = []
    pages = []

    def opened(inspection: Inspection, size: dict[str, int] = TALL, **settings: Any) -> Any:
        (tmp_path / "page.html").write_text(page(inspection), encoding="utf-8")
        tab = browser.new_page(viewport=size, **settings)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: said.append(request.url))
        tab.goto((tmp_path / "page.html").as_uri())
        pages.append(tab)
        return tab

    yield opened
    for tab in pages:
        tab.wait_for_timeout(50)
        tab.close()
    known = ("file:", "data:", "about:", "Canvas2D: Multiple readback")  # the last is for `pixel` below
    assert [text for text in said if not text.startswith(known)] == []


def token(tab: Any, inspection: Inspection, t: int, n: int) -> tuple[float, float]:
    """Where token `n` of frame `t` is on the screen, once it is there."""
    canvas = tab.locator(f'canvas[data-frame="{t}"]')
    canvas.scroll_into_view_if_needed()
    tab.wait_for_timeout(100)
    box = canvas.bounding_box()
    rows, columns = inspection.grid
    x = box["x"] + (n % columns + 0.5) * box["width"] / columns
    return x, box["y"] + (n // columns + 0.5) * box["height"] / rows


def pixel(tab: Any, inspection: Inspection, t: int, n: int) -> list[int]:
    """Colour at the middle of a token's upper edge, where the frame of a lit one is."""
    rows, columns = inspection.grid
    return tab.evaluate(
        """([t, r, c, rows, columns]) => {
            const canvas = document.querySelector(`canvas[data-frame="${t}"]`);
            const x = (c + .5) * canvas.width / columns, y = r * canvas.height / rows + 1;
            return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
        }""",
        [t, n // columns, n % columns, rows, columns],
    )


LIT = [255, 79, 163, 255]


def test_pointing_at_a_token_lights_up_all_that_it_was_averaged_with(show: Open) -> None:
    inspection = made_up(frames=8)
    tab = show(inspection)
    x, y = token(tab, inspection, 2, 1)  # static, part of the token at place 0
    tab.mouse.move(x, y)
    tab.wait_for_timeout(200)
    told = tab.text_content("#what")
    assert told.startswith("Frame 3, row 1, column 2 — static: merged over frames 1\N{EN DASH}4")
    assert f"which stands for {inspection.size[0, 0]} tokens of frames 1\N{EN DASH}4" in told
    for t in range(4):
        for n in range(16):
            lit = inspection.into[t, n] == 0 and (t, n) != (0, 0)
            assert (pixel(tab, inspection, t, n) == LIT) == lit, (t, n)
    assert tab.get_attribute("#line", "d").startswith("M")
    tab.mouse.move(5, 5)
    tab.wait_for_timeout(200)
    assert "Point at one" in tab.text_content("#what")
    assert tab.get_attribute("#line", "d") == ""
    assert pixel(tab, inspection, 2, 1) != LIT


def test_every_fate_is_told(show: Open) -> None:
    inspection = made_up(frames=8)
    tab = show(inspection)
    expected = {
        "kept": "sent as it was",
        "merged into": "sent; it stands for",
        "static": "merged over frames",
        "joined": "merged into frame",
        "dropped": "left out",
    }
    from holitom.inspect.inspection import FATES

    for fate, words in FATES.items():
        t, n = (int(at[0]) for at in (inspection.fate == fate).nonzero())
        tab.mouse.move(*token(tab, inspection, t, n))
        tab.wait_for_timeout(60)
        assert f"— {words.name}: {expected[words.name]}" in tab.text_content("#what")


def test_by_keyboard_alone(show: Open) -> None:
    inspection = made_up(frames=8)
    tab = show(inspection)
    for _ in range(12):  # views, segment, size, then the first frame
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    assert tab.evaluate("document.activeElement.dataset.frame") == "0"
    assert "Frame 1, row 1, column 1" in tab.text_content("#what")
    for key in ("ArrowRight", "ArrowRight", "PageDown", "PageDown"):
        tab.keyboard.press(key)
    assert "Frame 3, row 1, column 3 — static" in tab.text_content("#what")
    assert tab.evaluate("document.activeElement.dataset.frame") == "2"
    tab.keyboard.press("Enter")  # to the token that is sent for it
    assert "Frame 1, row 1, column 1 — merged into" in tab.text_content("#what")
    tab.keyboard.press("ArrowLeft")  # stays: there is nothing before
    assert "Frame 1, row 1, column 1" in tab.text_content("#what")
    tab.keyboard.press("End")
    tab.keyboard.press("ArrowRight")  # over into the next frame
    assert "Frame 2, row 1, column 1" in tab.text_content("#what")
    tab.keyboard.press("Escape")
    assert "Point at one" in tab.text_content("#what")
    tab.keyboard.press("Shift+Tab")
    assert tab.evaluate("document.activeElement.id") == "size"


def test_views_and_segments_by_keyboard(show: Open) -> None:
    tab = show(made_up(frames=8))
    tab.focus("input[name=view]")
    seen = []
    for _ in range(8):
        seen.append(tab.evaluate("document.querySelector('input[name=view]:checked').value"))
        tab.keyboard.press("ArrowRight")
    assert seen == ["fate", "sent", "layer2", "groups", "importance", "similarity", "picture", "fate"]
    tab.select_option("#jump", "1")
    tab.wait_for_timeout(200)
    assert tab.evaluate("document.activeElement.dataset.frame") == "4"


def test_in_a_frame_that_gets_its_width_late(show: Open) -> None:
    tab = show(made_up(frames=8))
    tab.goto("about:blank")
    tab.set_content(f"<div style='width: 350px'>{embed(made_up(frames=8))}</div>")
    time = tab.frame_locator("iframe").locator("#time")
    time.wait_for()
    tab.evaluate("document.querySelector('div').style.width = '1100px'")
    for _ in range(50):
        drawn = int(time.get_attribute("viewBox").split()[2])
        if drawn > 900:
            break
        tab.wait_for_timeout(50)
    assert drawn == round(time.bounding_box()["width"])  # drawn at the size at which it is shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(show: Open, scheme: str) -> None:
    inspection = made_up(frames=8)
    tab = show(inspection, PHONE, color_scheme=scheme, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    heads, cells = (tab.eval_on_selector(f"#stages {row} tr", SEEN) for row in ("thead", "tbody"))
    assert heads == cells
    assert not all(heads)  # there is no room for the bars
    x, y = token(tab, inspection, 2, 1)
    tab.touchscreen.tap(x, y)
    tab.wait_for_timeout(200)
    assert "Frame 3, row 1, column 2" in tab.text_content("#what")
    assert pixel(tab, inspection, 1, 2) == LIT
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 27)"}[scheme]


def test_words_can_be_read(show: Open) -> None:
    """Contrast of at least 4.5 to 1 (WCAG AA) between every text and what is behind it, in both schemes."""
    for scheme in ("light", "dark"):
        tab = show(made_up(), color_scheme=scheme)
        poor = tab.evaluate(CONTRAST)
        assert poor == []


def test_everything_has_a_name(show: Open) -> None:
    tab = show(made_up(frames=8))
    names = tab.locator("canvas[role=application]").evaluate_all("all => all.map(c => c.ariaLabel)")
    assert len(names) == 8
    assert all("sent" not in name and "Arrow keys" in name for name in names)
    assert names[1].startswith("Frame 2 at 0.12 s: ")
    assert "2 segments" in tab.get_attribute("#time", "aria-label")
    unnamed = tab.evaluate(
        """() => [...document.querySelectorAll("input, select")]
            .filter(one => !one.labels.length && !one.ariaLabel).length"""
    )
    assert unnamed == 0
    assert tab.locator("[role=status][aria-live=polite]").count() == 1


def test_a_thousand_frames_are_drawn_where_one_looks(show: Open) -> None:
    inspection = made_up(frames=1000, side=7)
    tab = show(inspection)
    tab.wait_for_timeout(300)
    drawn = "[...document.querySelectorAll('figure canvas')].filter(c => c.width > 1).length"
    assert 0 < tab.evaluate(drawn) < 200
    tab.mouse.move(*token(tab, inspection, 900, 0))
    tab.wait_for_timeout(200)
    assert "Frame 901, row 1, column 1" in tab.text_content("#what")
    assert 0 < tab.evaluate(drawn) < 200


def test_one_frame_without_picture(show: Open) -> None:
    nothing = dict.fromkeys(("frames", "similarity", "seconds", "importance", "survivors"))
    one = replace(made_up(frames=1), **nothing)
    tab = show(one)
    assert "One frame" in tab.text_content("#cut")
    assert not tab.locator("#time").is_visible()
    tab.mouse.move(*token(tab, one, 0, 3))
    tab.wait_for_timeout(100)
    assert "Frame 1, row 1, column 4" in tab.text_content("#what")


def test_the_leaderboard_on_a_phone(browser: Any, tmp_path: Path) -> None:
    results = json.loads((LEADERBOARD / "moving-digits.json").read_text())
    (tmp_path / "board.html").write_text(leaderboard_page([(results, [])], 0.1), encoding="utf-8")
    tab = browser.new_page(viewport=PHONE)
    tab.goto((tmp_path / "board.html").as_uri())
    tables = tab.query_selector_all("table")
    assert len(tables) > 3
    for table in tables:
        heads, cells = (table.eval_on_selector(f"{part} tr", SEEN) for part in ("thead", "tbody"))
        assert heads == cells
        assert all(heads)
    tab.close()
