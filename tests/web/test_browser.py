"""`holitom web` as people meet it: the real command, in Chromium."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from support.contrast import CONTRAST
from support.video_files import turn_sideways, write_video
from web_page import FIRST_ANSWER, chromium, ready, serving

from holitom.bench import moving_digits
from holitom.bundled import DEMO_VIDEO

pytestmark = pytest.mark.browser

DESK, PHONE = {"width": 1280, "height": 1200}, {"width": 390, "height": 844}
PATIENCE = 30_000  # milliseconds
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def server(uploads: Path) -> Iterator[str]:
    with serving(uploads, "--max-megabytes", "2") as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def show(browser: Any, server: str) -> Iterator[Open]:
    """Open the page as a new user; nothing may be asked of other machines or said on the console."""
    said: list[str] = []
    users = []

    def hear(message: Any) -> None:
        if not (message.location["url"].startswith(server) and gradios_own(message)):
            said.append(message.text)

    def one_more(size: dict[str, int] = DESK, **settings: Any) -> Any:
        user = browser.new_context(viewport=size, **settings)
        users.append(user)
        user.on("console", hear)
        user.on("weberror", lambda error: said.append(str(error.error)))
        user.on("request", lambda request: said.append(request.url))
        tab = user.new_page()
        tab.set_default_timeout(PATIENCE)
        return ready(tab, server)

    yield one_more
    for user in users:
        user.close()
    assert [text for text in said if not text.startswith((server, "data:", f"blob:{server}"))] == []


def gradios_own(message: Any) -> bool:
    """What Gradio's JavaScript says of each upload, and of each that is refused; nothing is wrong then.

    It closes the stream of an upload's progress, once that has ended, by a method that it has left empty
    but for a warning; and it asks for the progress of an upload that may have been refused meanwhile: a 404.
    """
    said, url = (message.type, message.text), message.location["url"]
    return (
        (said == ("warning", "Method not implemented.") and "/assets/" in url)
        or (message.type == "error" and "status of 404" in message.text and "/upload_progress?" in url)
        or (said == ("error", "Response") and "/assets/" in url)
    )


def click(tab: Any, button: Any) -> None:
    """Click, with the status so far marked as old: only what is said from now on counts."""
    tab.evaluate("document.querySelector('#status p').dataset.old = ''")
    button.click()


def ask(tab: Any, question: str | None = None) -> None:
    if question is not None:
        tab.fill("#question textarea", question)
    click(tab, tab.locator("#ask"))


def done(tab: Any) -> None:
    tab.wait_for_selector("#status p[role=status]:not([data-old]):has-text('Done')")


def refused(tab: Any) -> str:
    return str(tab.wait_for_selector("#status p[role=alert]:not([data-old])").inner_text())


def upload(tab: Any, path: Path) -> str:
    """Choose a file in the place of the one that is there; what the page says of it."""
    click(tab, tab.locator("#video button[aria-label=Clear]"))
    tab.wait_for_selector("#status p:has-text('Choose a video'):not([data-old])")
    tab.evaluate("document.querySelector('#status p').dataset.old = ''")
    tab.set_input_files("#video input[type=file]", str(path))
    return str(tab.wait_for_selector("#status p:not([data-old])").inner_text())


def answers(tab: Any) -> dict[str, str]:
    return {run: tab.input_value(f"#{run} textarea") for run in ("full", "merged")}


def test_the_demo_is_a_click(show: Open) -> None:
    tab = show()
    ask(tab)
    done(tab)
    assert answers(tab) == {"full": "ring", "merged": "ring"}
    for run, tokens in {"full": "784", "merged": "86 (11.0%)"}.items():
        figures = tab.inner_text(f"#{run}-figures")
        for name in (tokens, "ms", "tokens/s", "MB"):
            assert name in figures
    token_map = tab.frame_locator("#map iframe")
    assert "784 visual tokens become 86" in token_map.locator("h1").inner_text()
    token_map.locator('canvas[data-frame="0"]').scroll_into_view_if_needed()
    assert token_map.locator("figure canvas").count() == 16


def test_every_example_is_a_click_and_right_with_full_tokens(show: Open) -> None:
    known = {question.text: question.answer for question in moving_digits.sample("test", 35).questions}
    tab = show()
    examples = tab.locator("button.example")
    assert examples.count() >= 4
    for index in range(examples.count()):
        question = examples.nth(index).inner_text()
        click(tab, examples.nth(index))
        done(tab)
        assert tab.input_value("#question textarea") == question
        assert answers(tab)["full"] == known[question]


def test_upload_ask_and_move_the_sliders(show: Open, tmp_path: Path) -> None:
    tab = show()
    assert upload(tab, write_video(tmp_path / "mine.mp4")) == "Ready: mine.mp4, 24 frames, 3.0 s"
    tab.wait_for_function("document.querySelector('#player video').readyState > 0")  # it plays
    ask(tab, "How many scenes are there?")
    done(tab)
    before = tab.inner_text("#merged-figures")
    assert all(answers(tab).values())
    assert "mine.mp4" in tab.frame_locator("#map iframe").locator("body").inner_text()
    tab.fill("#retain input[type=number]", "0.5")
    tab.press("#retain input[type=number]", "Tab")
    tab.wait_for_function("document.querySelector('#threshold input[type=number]').value == 0.8")
    tab.click("#inner input")
    ask(tab)
    done(tab)
    after = tab.inner_text("#merged-figures")
    assert before != after
    tab.locator("#copy button").first.scroll_into_view_if_needed()
    tab.wait_for_timeout(
        500
    )  # a click is lost that comes right after scrolling, before the map's frame has moved
    tab.click("#copy button")
    tab.wait_for_selector("#copy :text('HoliTom(retain_ratio=0.5, inner_drop=None)')")
    line = "holitom ask --compare --frames 16 --retain 0.5 --no-inner --device cpu mine.mp4 'How many scenes"
    assert line in tab.inner_text("#copy")


def test_another_method(show: Open) -> None:
    tab = show()
    tab.click("#method input")
    tab.click("[role=option]:has-text('visionzip')")
    tab.wait_for_function("document.querySelector('#threshold input[type=range]').disabled")
    tab.wait_for_function("!document.querySelector('#inner input').checked")
    ask(tab)
    done(tab)
    assert "VisionZip(retain_ratio=0.1)" in tab.frame_locator("#map iframe").locator("body").inner_text()


def test_bad_uploads_are_a_sentence_and_the_next_works(show: Open, tmp_path: Path) -> None:
    tab = show()
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("no video\n" * 100)
    empty.touch()
    long = write_video(tmp_path / "long.mp4", frames=13, rate=Fraction(1, 600))
    for path, sentence in {
        text: "text.mp4: no readable video",
        empty: "empty.mp4: the file is empty",
        long: "long.mp4: lasts 130.0 minutes, longer than the 10 that are allowed here",
    }.items():
        assert upload(tab, path).startswith(sentence)
        assert not tab.locator("#player video").count()
        ask(tab)
        assert refused(tab).startswith(sentence)
        assert answers(tab) == {"full": "", "merged": ""}
    click(tab, tab.locator("button.example").first)
    done(tab)
    assert answers(tab)["full"] == "ring"


def test_what_is_no_video_by_name_or_too_large_is_not_taken(show: Open, tmp_path: Path) -> None:
    tab = show()
    notes, large = tmp_path / "notes.txt", tmp_path / "large.mp4"
    notes.write_text("no video")
    large.write_bytes(DEMO_VIDEO.read_bytes() + bytes(2_000_000))
    click(tab, tab.locator("#video button[aria-label=Clear]"))
    for path, sentence in {notes: "Invalid file type", large: "maximum allowed size of 2.0 Mb"}.items():
        tab.set_input_files("#video input[type=file]", str(path))
        tab.wait_for_selector(f"[data-testid=toast-body]:has-text('{sentence}')")
    ask(tab)
    assert refused(tab) == "Choose a video first."
    click(tab, tab.locator("button.example").first)
    done(tab)


def test_odd_videos(show: Open, tmp_path: Path) -> None:
    tab = show()
    for path in (
        write_video(tmp_path / "portrait.mp4", size=(48, 64)),
        turn_sideways(write_video(tmp_path / "turned.mp4")),
        write_video(tmp_path / "alpha.mkv", codec="ffv1", pix_fmt="yuva420p"),
    ):
        assert upload(tab, path).startswith(f"Ready: {path.name}")
        ask(tab)
        done(tab)
        assert all(answers(tab).values())
    assert "alpha.mkv can be asked about, but this browser cannot play it" in tab.inner_text("#player")


def test_bad_questions(show: Open) -> None:
    tab = show()
    ask(tab, "")
    assert refused(tab) == "The question is empty"
    ask(tab, "a" * 100_000)
    assert refused(tab) == "The question has 100,000 characters; it may have 10,000 at most"
    ask(tab, "Which shape flashes?")
    done(tab)


def test_by_keyboard_alone(show: Open) -> None:
    tab = show()

    def tab_to(selector: str) -> None:
        for _ in range(60):
            if tab.evaluate(f"document.activeElement.matches({selector!r})"):
                return
            tab.keyboard.press("Tab")
        raise AssertionError(f"{selector} cannot be reached")

    tab_to("#video button[aria-label=Clear]")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#status p:has-text('Choose a video')")
    tab_to("#video button")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Enter")
    chooser.value.set_files(str(DEMO_VIDEO))
    tab.wait_for_selector("#status p:has-text('Ready: demo.mp4, 32 frames')")
    tab_to("#question textarea")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("Where is the white digit at the start?")
    tab_to("#retain input[type=range]")
    for _ in range(15):
        tab.keyboard.press("ArrowRight")
    tab_to("#inner input")
    tab.keyboard.press("Space")
    tab.keyboard.press("Shift+Tab")
    tab.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    tab_to("#ask")
    tab.keyboard.press("Enter")
    done(tab)
    assert answers(tab)["full"] == "top right"
    tab_to("#copy button")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#copy :text('HoliTom(retain_ratio=0.25, inner_drop=None)')")


def test_on_a_phone(show: Open) -> None:
    tab = show(PHONE, has_touch=True)
    tab.tap("#ask")
    done(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    for place in ("#ask", "#full", "#merged", "#map iframe"):
        box = tab.locator(place).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_and_everything_has_a_name(show: Open, scheme: str) -> None:
    tab = show(color_scheme=scheme)
    ask(tab)
    done(tab)
    tab.wait_for_timeout(500)  # buttons fade
    assert tab.evaluate(CONTRAST) == []
    ask(tab, "")
    refused(tab)
    assert tab.evaluate(CONTRAST) == []
    unnamed = tab.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button, video, iframe")].filter(one =>
            one.offsetParent && !one.labels?.length && !one.ariaLabel && !one.title && !one.innerText.trim()
        ).map(one => one.outerHTML)"""
    )
    assert unnamed == []


def test_two_users_at_once_do_not_mix(show: Open) -> None:
    asked = {"Which way does the white digit move?": "down", "How many scenes are there?": "three"}
    tabs = [show() for _ in asked]
    for _ in range(3):
        for tab, question in zip(tabs, asked, strict=True):
            ask(tab, question)
        for tab, (question, answer) in zip(tabs, asked.items(), strict=True):
            done(tab)
            assert answers(tab)["full"] == answer
            assert question in tab.frame_locator("#map iframe").locator("body").inner_text()


def test_only_this_machine_can_reach_it(server: str) -> None:
    port = int(server.rstrip("/").rsplit(":", 1)[1])
    assert server.startswith("http://127.0.0.1:")
    with socket.socket() as other:  # any other of this machine's addresses would refuse to share the port
        other.bind(("127.0.0.2", port))


def test_a_server_just_started_answers_at_once_and_leaves_nothing(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        tab = ready(browser.new_page(), url)
        assert tab.evaluate(FIRST_ANSWER) < 3  # seconds
        done(tab)
        tab.close()
        assert list(tmp_path.glob("holitom-web-*/*/demo.mp4"))
    assert list(tmp_path.glob("holitom-web-*")) == []
