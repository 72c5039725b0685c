"""`holitom web` as people meet it: the real command, in Chromium."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from support.chromium import chromium
from support.video_files import turn_sideways, write_video

from holitom.bench import moving_digits
from holitom.cli import DEMO_VIDEO

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
DESK, PHONE = {"width": 1280, "height": 1200}, {"width": 390, "height": 844}
PATIENCE = 30_000  # milliseconds
Open = Callable[..., Any]


def start(uploads: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """The server with its temporary files in `uploads`, and its address."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "holitom", "web", "--device", "cpu", *options],
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(uploads)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http"), "it did not start; stderr says why"
    return process, url


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def server(uploads: Path) -> Iterator[str]:
    process, url = start(uploads, "--max-megabytes", "2")
    yield url
    stop(process)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def show(browser: Any, server: str) -> Iterator[Open]:
    """Open the page as a new user; nothing may be asked of other machines or said on the console."""
    said: list[str] = []
    users = []

    def opened(size: dict[str, int] = DESK, **settings: Any) -> Any:
        user = browser.new_context(viewport=size, **settings)
        users.append(user)
        tab = user.new_page()
        tab.set_default_timeout(PATIENCE)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: said.append(request.url))
        tab.goto(server)
        tab.wait_for_selector("#ask")
        tab.wait_for_selector("#video video")
        return tab

    yield opened
    for user in users:
        user.close()
    assert [text for text in said if not text.startswith((server, "data:", f"blob:{server}"))] == []


def done(tab: Any) -> None:
    tab.wait_for_function("document.querySelector('#status').innerText.startsWith('Done')")


def refused(tab: Any) -> str:
    return str(tab.wait_for_selector("#status [role=alert]").inner_text())


def ask(tab: Any, question: str | None = None) -> None:
    """Ask and wait for the end; the status of the question before is waited away first."""
    if question is not None:
        tab.fill("#question textarea", question)
    tab.evaluate("document.querySelector('#status').innerHTML = ''")
    tab.click("#ask")


def upload(tab: Any, path: Path) -> None:
    tab.click("#video button[aria-label=Clear]")
    tab.set_input_files("#video input[type=file]", str(path))


def answers(tab: Any) -> dict[str, str]:
    return {run: tab.input_value(f"#{run} textarea") for run in ("full", "merged")}


def test_the_demo_is_a_click(show: Open) -> None:
    tab = show()
    ask(tab)
    done(tab)
    assert answers(tab) == {"full": "ring", "merged": "ring"}
    for run, tokens in {"full": "785", "merged": "87 (11.1%)"}.items():
        figures = tab.inner_text(f"#{run}-figures")
        for name in (tokens, "ms", "tokens/s", "bytes"):
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
        tab.evaluate("document.querySelector('#status').innerHTML = ''")
        examples.nth(index).click()
        done(tab)
        assert tab.input_value("#question textarea") == question
        assert answers(tab)["full"] == known[question]


def test_upload_ask_and_move_the_sliders(show: Open, tmp_path: Path) -> None:
    tab = show()
    upload(tab, write_video(tmp_path / "mine.mp4"))
    tab.wait_for_selector("#video video")
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
    tab.click("#copy button")
    code = tab.inner_text("#copy")
    assert "HoliTom(retain_ratio=0.5, inner_drop=None)" in code
    assert "holitom ask --compare --frames 16 --retain 0.5 --no-inner mine.mp4 'How many scenes" in code


def test_another_method(show: Open) -> None:
    tab = show()
    tab.click("#method input")
    tab.click("[role=option]:has-text('visionzip')")
    tab.wait_for_function("document.querySelector('#threshold input[type=range]').disabled")
    assert not tab.is_checked("#inner input")
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
        text: "Text.mp4: no readable video",
        empty: "Empty.mp4: the file is empty",
        long: "Long.mp4: lasts 130.0 minutes, longer than the 10 that are allowed here",
    }.items():
        upload(tab, path)
        tab.wait_for_timeout(500)
        ask(tab)
        assert refused(tab).startswith(sentence)
        assert answers(tab) == {"full": "", "merged": ""}
    tab.locator("button.example").first.click()
    done(tab)
    assert answers(tab)["full"] == "ring"


def test_what_is_no_video_by_name_or_too_large_is_not_taken(show: Open, tmp_path: Path) -> None:
    tab = show()
    large = tmp_path / "large.mp4"
    large.write_bytes(DEMO_VIDEO.read_bytes() + bytes(2_000_000))
    upload(tab, large)
    tab.wait_for_selector("[data-testid=toast-body]:has-text('File size')")
    ask(tab)
    assert refused(tab) == "Choose a video first."
    tab.locator("button.example").first.click()
    done(tab)


def test_odd_videos(show: Open, tmp_path: Path) -> None:
    tab = show()
    for path in (
        write_video(tmp_path / "portrait.mp4", size=(48, 64)),
        turn_sideways(write_video(tmp_path / "turned.mp4")),
        write_video(tmp_path / "alpha.mkv", codec="ffv1", pix_fmt="yuva420p"),
    ):
        upload(tab, path)
        tab.wait_for_timeout(500)
        ask(tab)
        done(tab)
        assert all(answers(tab).values())


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
    tab.wait_for_timeout(500)
    assert "retain_ratio=0.25, inner_drop=None" in tab.inner_text("#copy")


def test_on_a_phone(show: Open) -> None:
    tab = show(PHONE, has_touch=True)
    tab.tap("#ask")
    done(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    for place in ("#ask", "#full", "#merged", "#map iframe"):
        box = tab.locator(place).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


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


def test_ending_it_removes_what_was_uploaded(tmp_path: Path) -> None:
    process, _ = start(tmp_path)
    assert list(tmp_path.glob("holitom-web-*/*/demo.mp4"))
    stop(process)
    assert process.returncode == 0
    assert list(tmp_path.glob("holitom-web-*")) == []
