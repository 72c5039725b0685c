"""Measure `holitom web`: the first answer, layout shifts, users at once, memory.

    python tools/web_measure.py first            # from the click to the first word, beyond the model's time
    python tools/web_measure.py shifts VIDEO     # how far the page moves by itself with 32 frames of it
    python tools/web_measure.py users            # five people ask at once
    python tools/web_measure.py memory           # the server's memory after 20 to 200 runs of many settings

Needs `holitom[web]`; all but `memory` need Playwright and a Chromium, `memory` needs Linux. Times are
meaningful only on idle cores.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from gradio_client import Client, handle_file
from web_page import FIRST_ANSWER, SHIFTS, Server, chromium, ready, served

from holitom.bundled import DEMO_VIDEO
from holitom.web.controls import merging_inside, usual_threshold

ROUNDS = 5
ASKED = (
    ("Which way does the white digit move?", "down"),
    ("How many scenes are there?", "three"),
    ("Which shape flashes?", "ring"),
    ("Where is the white digit at the start?", "top right"),
    ("Which color comes first?", "white"),
)
RESIDENTS, LOOK = 4, 20
METHODS_ASKED = (  # name, retain ratio, reuse
    ("holitom", 0.1, False),
    ("visionzip", 0.25, False),
    ("holitom", 0.2, True),
    ("fastvid", 0.25, False),
    ("fastv", 0.5, False),
    ("holitom-plus", 0.1, False),
    ("dycoke", 0.5, False),
)


def opened(browser: Any, server: Server) -> Any:
    """Open the page as a new user."""
    tab = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    tab.set_default_timeout(300_000)
    return ready(tab, server.url)


def ask(tab: Any, question: str | None = None) -> None:
    """Press Ask by script, since layout shifts after a person's input do not count."""
    if question is not None:
        tab.fill("#question textarea", question)
    tab.evaluate("document.querySelector('#status p').dataset.old = ''")
    tab.evaluate("document.querySelector('#ask').click()")


def done(tab: Any) -> None:
    tab.wait_for_selector("#status p[role=status]:not([data-old]):has-text('Done')")


def merged_seconds(tab: Any) -> float:
    """Read from the page the seconds from the file to the first merged token."""
    row = tab.locator("#headline .bar:has-text('File to first token') .value").inner_text()
    found = re.match(r"([\d.]+) (ms|s) beside", row)
    assert found is not None, row
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def first(browser: Any, server: Server) -> None:
    """Time first words; each round is a new user's first question, whose times on the page are of one run."""
    beyond = []
    for _ in range(ROUNDS):
        tab = opened(browser, server)
        clicked = tab.evaluate(FIRST_ANSWER)
        done(tab)
        model = merged_seconds(tab)
        beyond.append(clicked - model)
        print(f"first word after {clicked:.2f} s, of which file to first token {model:.2f} s")
        tab.context.close()
    print(f"beyond the model: median {median(beyond):.2f} s, at most {max(beyond):.2f} s, {ROUNDS} runs")


def shifts(browser: Any, server: Server, video: Path) -> None:
    """Sum up layout shifts (CLS) from the click until the map is drawn."""
    tab = opened(browser, server)
    tab.click("#video button[aria-label=Clear]")
    tab.set_input_files("#video input[type=file]", str(video))
    tab.wait_for_selector(f"#status p:has-text('Ready: {video.name}')")
    tab.fill("#frames input[type=number]", "32")
    tab.press("#frames input[type=number]", "Tab")
    tab.wait_for_timeout(1000)
    tab.evaluate(SHIFTS)
    ask(tab, "What happens?")
    done(tab)
    tab.wait_for_selector("#map figure canvas")
    tab.wait_for_timeout(1000)
    assert tab.locator("#map figure canvas").count() == 32
    print(f"{video.name}, 32 frames: layout shifts (CLS) {tab.evaluate('window.shifts'):.4f}")


def memory(server: Server, runs: int) -> None:
    """Print the server's resident memory after each `LOOK` runs.

    Requests go through the page's own queue, without a browser. `RESIDENTS` sessions ask in turn about a few
    frames of the demo, each time with the next of `METHODS_ASKED`, so that their histories grow; each tenth
    run is that of a new session, which also compares two methods and leaves.
    """
    residents = [visitor(server) for _ in range(RESIDENTS)]
    first = 0.0
    for number in range(1, runs + 1):
        stays = number % 10 != 0
        person = residents[number % RESIDENTS] if stays else visitor(server)
        name, ratio, reuse = METHODS_ASKED[number % len(METHODS_ASKED)]
        frames, (question, _) = (4, 8)[number % 2], ASKED[number % len(ASKED)]
        threshold, inner = usual_threshold(name, ratio) or 0.8, merging_inside(name)[0]
        inputs = (handle_file(DEMO_VIDEO), question, name, ratio, threshold, inner, frames, reuse, "time")
        answered(person, *inputs, api_name="/ask")
        if not stays:
            answered(person, ["holitom", "evs"], *inputs, api_name="/compare")
            person.close()
        if number % LOOK == 0:
            resident = server.resident()
            first = first or resident
            print(f"after {number} runs: {resident:.0f} MB ({resident - first:+.0f} MB)", flush=True)
    for person in residents:
        person.close()


def visitor(server: Server) -> Client:
    """Open a session of the page."""
    return Client(server.url, verbose=False, analytics_enabled=False)


def answered(person: Client, *inputs: Any, api_name: str) -> None:
    """Send one request, and check that the page says that it was answered."""
    job = person.submit(*inputs, api_name=api_name)
    job.result()
    said = [str(shown[0]) for shown in job.outputs()]
    assert any("Done" in one for one in said), said


def users(browser: Any, server: Server) -> None:
    """Five people ask different questions at once, twice; each must get the answer to their own."""
    tabs = [opened(browser, server) for _ in ASKED]
    for number in range(1, 3):
        began = perf_counter()
        for tab, (question, _) in zip(tabs, ASKED, strict=True):
            ask(tab, question)
        for tab, (question, answer) in zip(tabs, ASKED, strict=True):
            done(tab)
            said = tab.inner_text("#full .answer.done .said")
            assert said == answer, f"{question}: {said}"
        print(f"round {number}: five users have both their own answers after {perf_counter() - began:.1f} s")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("first")
    what.add_parser("shifts").add_argument("video", type=Path)
    what.add_parser("users")
    what.add_parser("memory").add_argument("--runs", type=int, default=200)
    asked = parser.parse_args()
    # Not timed, so in the precision that any processor computes fast.
    options = ["--dtype", "float32"] if asked.what == "memory" else []
    with TemporaryDirectory() as uploads, served(Path(uploads), *options) as server:
        if asked.what == "memory":
            memory(server, asked.runs)
            return
        with chromium() as browser:
            if asked.what == "first":
                first(browser, server)
            elif asked.what == "shifts":
                shifts(browser, server, asked.video)
            else:
                users(browser, server)


if __name__ == "__main__":
    main()
