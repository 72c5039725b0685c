"""`holitom web` as people meet it: the real command, in Chromium."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.contrast import CONTRAST
from support.video_files import turn_sideways, write_video
from web_page import SHIFTS, chromium, ready, serving

from holitom.bundled import DEMO_VIDEO
from holitom.web.library import library

pytestmark = pytest.mark.browser

DESK, PHONE = {"width": 1280, "height": 1200}, {"width": 390, "height": 844}
FRAMES = "#settings #frames"  # the token map has an element of that name, too
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
    """What the cards of finished runs say; "" of one that has not finished."""
    found = {}
    for run in ("full", "merged"):
        card = tab.locator(f"#{run} .answer.done .said")
        found[run] = card.inner_text() if card.count() else ""
    return found


def advanced(tab: Any) -> None:
    tab.click("#advanced button")
    tab.wait_for_selector("#inner input")


def look_at(tab: Any, name: str) -> None:
    tab.click(f"[role=tab]:has-text('{name}')")


def test_the_demo_is_a_click(show: Open) -> None:
    tab = show()
    ask(tab)
    done(tab)
    assert answers(tab) == {"full": "ring", "merged": "ring"}
    assert "784 visual tokens" in tab.inner_text("#full .note")
    assert "86 visual tokens, 43 from layer 5 on" in tab.inner_text("#merged .note")
    headline = tab.inner_text("#results .headline")
    for said in ("Same answer", "11.0% of the visual tokens", "File to first token", "KV cache", "MB"):
        assert said in headline
    # All of it beside the video, on a small screen, without scrolling.
    for place in ("#question", "#ask", "#full", "#merged", "#results .headline"):
        box = tab.locator(place).bounding_box()
        assert box["y"] + box["height"] < 800, place
    # The map counts bytes as the headline does.
    assert "MB · 100.0%" in tab.inner_text("#map #stages")
    token_map = tab.locator("#map")
    token_map.locator('canvas[data-frame="0"]').scroll_into_view_if_needed()
    assert token_map.locator("figure canvas").count() == 16
    inside = tab.evaluate(
        "[...document.querySelectorAll('iframe')].length + [...document.querySelector('#map holitom-map')"
        ".shadowRoot.querySelectorAll('main, section')]"
        ".filter(one => one.scrollHeight > one.clientHeight + 2).length"
    )
    assert inside == 0  # no frame, and nothing that scrolls inside the page


def test_the_banner_says_what_the_model_cannot_do(show: Open) -> None:
    banner = show().inner_text("#head .banner")
    assert "moving digits and shapes alone" in banner


def test_answers_stream_in_order_and_nothing_moves(show: Open) -> None:
    """The merged answer is there before the full one, that before the map; the page does not shift (CLS)."""
    tab = show({"width": 1280, "height": 800})
    tab.evaluate(SHIFTS)
    tab.evaluate(
        """() => {
            window.seen = [];
            const note = one => { if (!seen.includes(one)) seen.push(one); };
            const look = () => {
                if (document.querySelector("#merged .answer.running")) note("merged runs");
                if (document.querySelector("#merged .answer.done")) note("merged");
                if (document.querySelector("#full .answer.done")) note("full");
                if (document.querySelector("#headline .same")) note("headline");
                if (document.querySelector("#map holitom-map")) note("map");
            };
            const all = {subtree: true, childList: true, attributes: true};
            new MutationObserver(look).observe(document.body, all);
            document.querySelector("#ask").click();  // no input of a person: every shift counts
        }"""
    )
    done(tab)
    tab.wait_for_selector("#map figure canvas")
    tab.wait_for_timeout(300)
    assert tab.evaluate("seen") in (
        ["merged runs", "merged", "full", "headline", "map"],
        ["merged runs", "merged", "headline", "full", "map"],
    )
    assert tab.evaluate("window.shifts") < 0.05


def test_results_of_other_settings_are_marked(show: Open) -> None:
    tab = show()
    ask(tab)
    done(tab)
    stale = tab.locator("#stale p")
    assert not stale.is_visible()
    tab.fill("#question textarea", "How many scenes are there?")
    tab.press("#question textarea", "Tab")
    tab.wait_for_selector("#stale p:visible")
    tab.fill("#question textarea", "Which shape flashes?")
    tab.wait_for_selector("#stale p", state="hidden")
    tab.fill("#retain input[type=number]", "0.5")
    tab.press("#retain input[type=number]", "Tab")
    tab.wait_for_selector("#stale p:visible")
    ask(tab)
    done(tab)
    assert not stale.is_visible()


def test_methods_are_compared_side_by_side(show: Open) -> None:
    tab = show()
    look_at(tab, "Compare")
    tab.click("#compare-ask")
    tab.wait_for_selector("#compare-status p:has-text('Done')")
    columns = tab.locator("#compared .method")
    assert [columns.nth(i).locator("h3").inner_text() for i in range(3)] == [
        "holitom",
        "visionzip",
        "fastvid",
    ]
    assert tab.locator("#compared .columns img").count() == 3 * 16


def test_the_page_lists_only_the_runs_of_its_own_session(show: Open) -> None:
    tab, other = show(), show()
    for question in ("Which shape flashes?", "How many scenes are there?"):
        ask(tab, question)
        done(tab)
    look_at(tab, "Runs")
    rows = tab.locator("#runs tbody tr")
    rows.nth(1).wait_for()
    assert rows.count() == 2
    assert "How many scenes" in rows.nth(0).inner_text()  # the newest first
    ask(other)
    done(other)
    look_at(other, "Runs")
    other.locator("#runs tbody tr").first.wait_for()
    assert other.locator("#runs tbody tr").count() == 1


def test_every_example_is_a_click_and_right_with_full_tokens(show: Open) -> None:
    recorded = library()
    tab = show()
    examples = tab.locator("button.example")
    assert examples.count() == len(recorded) >= 8
    assert any(example.hurts for example in recorded)
    for index in range(examples.count()):
        question, example = examples.nth(index).inner_text(), recorded[index]
        assert question == example.text
        click(tab, examples.nth(index))
        done(tab)
        assert tab.input_value("#question textarea") == question
        assert answers(tab) == {"full": example.answer, "merged": example.holitom}


def test_upload_ask_and_move_the_sliders(show: Open, tmp_path: Path) -> None:
    tab = show()
    assert upload(tab, write_video(tmp_path / "mine.mp4")) == "Ready: mine.mp4, 24 frames, 3.0 s"
    tab.wait_for_function("document.querySelector('#player video').readyState > 0")  # it plays
    ask(tab, "How many scenes are there?")
    done(tab)
    before = tab.inner_text("#results .headline")
    assert all(answers(tab).values())
    assert "mine.mp4" in tab.locator("#map #about").text_content()
    tab.fill("#retain input[type=number]", "0.5")
    tab.press("#retain input[type=number]", "Tab")
    advanced(tab)
    tab.wait_for_function("document.querySelector('#threshold input[type=number]').value == 0.8")
    tab.click("#inner input")
    ask(tab)
    done(tab)
    assert before != tab.inner_text("#results .headline")
    look_at(tab, "Copy")
    tab.wait_for_selector("#copy-python :text('HoliTom(retain_ratio=0.5, inner_drop=None)')")
    line = "holitom ask --compare --frames 16 --retain 0.5 --no-inner --device cpu mine.mp4 'How many scenes"
    assert line in tab.inner_text("#copy-command")
    assert "vllm serve" in tab.inner_text("#copy-vllm")


def test_another_method(show: Open) -> None:
    tab = show()
    advanced(tab)
    tab.select_option("#method-select", "visionzip")
    tab.wait_for_function("document.querySelector('#threshold input[type=range]').disabled")
    tab.wait_for_function("!document.querySelector('#inner input').checked")
    ask(tab)
    done(tab)
    assert "VisionZip(retain_ratio=0.1)" in tab.locator("#map #about").text_content()


def test_the_slider_goes_where_the_method_can(show: Open) -> None:
    tab = show()
    groups = tab.locator("#method-select optgroup").evaluate_all("all => all.map(one => one.label)")
    assert len(groups) == 4
    tab.select_option("#method-select", "dycoke")
    tab.wait_for_function("document.querySelector('#retain input[type=number]').value == 0.25")
    tab.wait_for_selector("#method-says:has-text('from 0.25 to 1 with 16 frames')")
    ask(tab)
    done(tab)
    advanced(tab)
    tab.select_option("#method-select", "fastv")  # merges inside alone: it cannot do without
    tab.wait_for_function("(box => box.checked && box.disabled)(document.querySelector('#inner input'))")


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
    click(tab, tab.locator("button.example:has-text('Which shape flashes')").first)
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
    tab.wait_for_selector("#video button[aria-label=Clear]", state="detached")
    chosen: list[Any] = []
    tab.on("filechooser", lambda one: chosen.append(one))
    for _ in range(6):  # Gradio may draw the button once more, and a key that reached the old one is lost
        tab_to("#video button[aria-dropeffect]")
        tab.keyboard.press("Enter")
        tab.wait_for_timeout(2000)
        if chosen:
            break
    chosen[0].set_files(str(DEMO_VIDEO))
    tab.wait_for_selector("#status p:has-text('Ready: demo.mp4, 32 frames')")
    tab_to("#question textarea")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("Where is the white digit at the start?")
    tab_to("#retain input[type=range]")
    for _ in range(15):
        tab.keyboard.press("ArrowRight")
    tab_to("#advanced button")
    tab.keyboard.press("Enter")
    tab_to("#inner input")
    tab.keyboard.press("Space")
    tab.keyboard.press("Shift+Tab")
    tab.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    tab_to("#ask")
    tab.keyboard.press("Enter")
    done(tab)
    assert answers(tab)["full"] == "top right"
    tab_to("[role=tab][aria-selected=true]")
    for _ in range(3):
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#copy-python :text('HoliTom(retain_ratio=0.25, inner_drop=None)')")


def test_on_a_phone(show: Open) -> None:
    tab = show(PHONE, has_touch=True)
    order = ["#player", "#question", "#full", "#results .headline", "#library", "#settings"]
    tops = [tab.locator(place).bounding_box()["y"] for place in order]
    assert tops == sorted(tops)  # question and answers come right after the video
    tab.tap("#ask")
    done(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    named = [one.strip() for one in tab.locator("[role=tab]:visible").all_inner_texts()]
    assert named == ["Token map", "Compare", "Runs", "Copy"]  # none behind a menu
    for place in ("#ask", "#full", "#merged", "#map holitom-map"):
        box = tab.locator(place).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    settings_have_room(tab)


def settings_have_room(tab: Any) -> None:
    """No setting is so narrow that its words are cut or stand one below another."""
    advanced(tab)
    for place in ("#retain", FRAMES, "#threshold", "#inner", "#reuse"):
        assert tab.locator(place).bounding_box()["width"] >= 200, place


@pytest.mark.parametrize("wide", [1280, 1180, 900])
def test_the_settings_fill_the_place_beside_the_examples(show: Open, wide: int) -> None:
    """No control is far below the others, none sticks out, and none lies on another."""
    tab = show({"width": wide, "height": 800})
    ask(tab)
    done(tab)
    box = {
        place: tab.locator(place).bounding_box()
        for place in ("#video-column", "#library", "#results", "#method", "#retain", FRAMES, "#advanced")
    }
    lower = max(("#retain", FRAMES), key=lambda place: box[place]["y"] + box[place]["height"])
    right = [box[place] for place in ("#results", "#method", "#retain")]
    assert 0 <= box["#advanced"]["y"] - box[lower]["y"] - box[lower]["height"] < 40
    for above, below in pairwise(right):
        assert 0 <= below["y"] - above["y"] - above["height"] < 40
        assert abs(below["x"] - above["x"]) < 2
    assert 0 <= box["#library"]["y"] - box["#video-column"]["y"] - box["#video-column"]["height"] < 40
    for one in box.values():
        assert one["x"] + one["width"] <= wide
    assert box["#method"]["x"] >= box["#library"]["x"] + box["#library"]["width"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= wide
    settings_have_room(tab)
    cut = tab.evaluate(
        "[...document.querySelectorAll('#results *')].filter(one => one.scrollWidth > one.clientWidth + 1 "
        "&& getComputedStyle(one).textOverflow === 'ellipsis').map(one => one.innerText)"
    )
    assert cut == []
    look_at(tab, "Copy")
    lines = tab.locator("#copy-command .cm-line")
    # With the label and its buttons; it was 455 pixels high for one line.
    assert tab.locator("#copy-command").bounding_box()["height"] < lines.bounding_box()["height"] + 110


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
        """() => [...document.querySelectorAll("input, textarea, select, button, video")].filter(one =>
            one.offsetParent && !one.labels?.length && !one.ariaLabel && !one.title && !one.innerText.trim()
        ).map(one => one.outerHTML)"""
    )
    assert unnamed == []


def test_users_at_once_do_not_mix(show: Open) -> None:
    asked = {
        "Which way does the white digit move?": "down",
        "How many scenes are there?": "three",
        "Which shape flashes?": "ring",
        "Where is the white digit at the start?": "top right",
        "Which color comes first?": "white",
    }
    tabs = [show() for _ in asked]
    for _ in range(2):
        for tab, question in zip(tabs, asked, strict=True):
            ask(tab, question)
        for tab, (question, answer) in zip(tabs, asked.items(), strict=True):
            done(tab)
            assert answers(tab)["full"] == answer
            assert question in tab.locator("#map #asked").text_content()


def test_only_this_machine_can_reach_it(server: str) -> None:
    port = int(server.rstrip("/").rsplit(":", 1)[1])
    assert server.startswith("http://127.0.0.1:")
    with socket.socket() as other:  # any other of this machine's addresses would refuse to share the port
        other.bind(("127.0.0.2", port))


def test_a_server_that_ends_leaves_nothing(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        tab = ready(browser.new_page(), url)
        ask(tab)
        done(tab)
        tab.close()
        assert list(tmp_path.glob("holitom-web-*/*/demo.mp4"))
    assert list(tmp_path.glob("holitom-web-*")) == []


def test_motion_can_be_reduced(show: Open) -> None:
    tab = show(reduced_motion="reduce")
    moving = tab.evaluate(
        """() => [...document.querySelectorAll("*")].filter(one => {
            const style = getComputedStyle(one);
            return style.animationName !== "none" || parseFloat(style.transitionDuration) > 0;
        }).length"""
    )
    assert moving == 0
