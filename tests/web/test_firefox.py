"""`holitom web` in Firefox, where one is installed: asked by keyboard, compared, no error on the console."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from firefox import ENTER, Firefox, firefox, firefox_here
from web_page import serving

pytestmark = [pytest.mark.browser, pytest.mark.skipif(firefox_here() is None, reason="needs Firefox")]

DONE = "document.querySelector('{}')?.innerText.includes('Done')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("uploads")) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Firefox]:
    with firefox() as one:
        yield one


@pytest.mark.parametrize("width", [1280, 390])
def test_a_question_is_answered_and_the_map_is_drawn(browser: Firefox, server: str, width: int) -> None:
    browser.resize(width, 900)
    browser.open(server)
    browser.wait("document.querySelector('#player video')")
    browser.type("#question textarea", "Which color comes first?" + ENTER)
    browser.wait(DONE.format("#status"))
    for run in ("full", "merged"):
        said = browser.run(f"return document.querySelector('#{run} .answer.done .said').innerText")
        assert said == "white"
    assert "Same answer" in browser.run("return document.querySelector('#headline').innerText")
    inside = "document.querySelector('holitom-map').shadowRoot"
    browser.run(f"{inside}.querySelector('canvas[data-frame=\"0\"]').scrollIntoView()")
    # A picture with its tokens, no plain ground.
    browser.wait(
        f"(one => new Set(one.getContext('2d').getImageData(0, 0, one.width, one.height).data).size > 20)"
        f"({inside}.querySelector('canvas[data-frame=\"0\"]'))"
    )
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.type("#question textarea", "Which shape flashes?\t")
    browser.wait("getComputedStyle(document.querySelector('#stale p')).visibility === 'visible'")
    assert browser.errors() == []


def test_methods_are_compared(browser: Firefox, server: str) -> None:
    browser.resize(1280, 900)
    browser.open(server)
    browser.wait("document.querySelectorAll('[role=tab]').length >= 4")
    browser.run(
        "[...document.querySelectorAll('[role=tab]')].find(one => one.innerText.includes('Compare')).click()"
    )
    browser.press("#compare-ask")
    browser.wait(DONE.format("#compare-status"))
    names = browser.run(
        "return [...document.querySelectorAll('#compared .method h3')].map(one => one.innerText)"
    )
    assert names == ["holitom", "visionzip", "fastvid"]
    assert browser.run("return document.querySelectorAll('#compared .columns img').length") == 3 * 16
    assert browser.errors() == []


def test_errors_of_a_page_are_heard(browser: Firefox, server: str) -> None:
    """The other tests are worth what this one holds."""
    browser.open(server)
    browser.run("console.error('told'); setTimeout(() => { throw new Error('thrown') })")
    ends = time.monotonic() + 10
    while len(browser.errors()) < 2 and time.monotonic() < ends:
        time.sleep(0.1)
    told, thrown = browser.errors()
    assert "told" in told
    assert "thrown" in thrown
