"""Changes of the page with each update, errors as sentences, and a player for the video."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from holitom.bundled import check_question
from holitom.errors import HolitomError
from holitom.inspect.draw_compare import Column, comparison
from holitom.inspect.draw_html import element
from holitom.methods.registry import METHODS
from holitom.web.answering import Desk, Request
from holitom.web.cards import (
    answer_card,
    answer_note,
    empty_headline,
    headline,
    history_table,
    marked,
    seconds,
)
from holitom.web.copying import Loaded, command, python, vllm
from holitom.web.history import Figures, History, Ran, add

log = logging.getLogger(__name__)

Shown = dict[str, Any]


def respond(desk: Desk, request: Request, loaded: Loaded, history: History = ()) -> Iterator[Shown]:
    """Answer a request and yield the changes of the page, by the name of the place; errors change the status.

    The place `history` holds the session's runs; this one is appended once it is complete.
    """
    try:
        request.chosen()
        check_question(request.question)
        yield {
            "status": status("Looking the request over"),
            "full": answer_card("full", state="waiting"),
            "merged": answer_card("merged", state="waiting"),
            "headline": empty_headline(),
            "map": "",
            **copies(desk, request, loaded),
        }
        done: dict[str, Figures] = {}
        for update in desk.answers(request):
            shown: Shown = {}
            if update.status is not None:
                shown["status"] = status(update.status)
            if update.run is not None and update.timed is not None:
                done[update.run] = one = Figures.of(update.timed)
                shown[update.run] = answer_card(
                    update.run, html.escape(one.text) or "(no answer)", "done", answer_note(one)
                )
                if len(done) == 2:
                    history = add(history, Ran(request, **done))
                    shown |= _both(history)
            elif update.run is not None and update.text is not None:
                shown[update.run] = answer_card(update.run, html.escape(update.text), "running")
            if update.inspection is not None:
                shown["map"] = element(update.inspection)
            yield shown
    except Exception as error:
        emptied: Shown = {"map": "", "headline": empty_headline()}
        emptied |= {run: answer_card(run) for run in ("full", "merged")}
        yield {"status": _refusal(error, request.video), **emptied}


def _both(history: History) -> Shown:
    """Fill the places that compare both answers of the last run."""
    ran = history[-1]
    shown: Shown = {"headline": headline(ran, history), "history": history, "runs": history_table(history)}
    for run, one, other in (("full", ran.full, ran.merged), ("merged", ran.merged, ran.full)):
        text = marked(one.text, other.text) or "(no answer)"
        shown[run] = answer_card(run, text, "done", answer_note(one))
    return shown


def copies(desk: Desk, request: Request, loaded: Loaded) -> Shown:
    """Write the run in Python, on the command line and for vLLM."""
    return {
        "python": python(request, loaded),
        "command": command(request, loaded),
        "vllm": vllm(request, loaded, desk.model.config),
    }


def compare(desk: Desk, request: Request, methods: Sequence[str]) -> Iterator[Shown]:
    """Compare methods and yield the changes of the places `compared` and `compare_status`."""
    columns: dict[str, Column] = {}
    try:
        yield {"compare_status": status("Looking the request over"), "compared": ""}
        for update in desk.compared(request, methods):
            shown: Shown = {}
            if not columns:
                columns = {name: Column(name, METHODS[name].does) for name in methods}
            if update.status is not None:
                shown["compare_status"] = status(update.status)
            if update.run is not None and update.timed is not None:
                notes = [("first token", seconds(update.timed.first_token))]
                if (reuse := update.timed.answer.report.reuse) is not None:
                    notes.append(("vision tower computed", f"{reuse.computed_share:.0%}"))
                columns[update.run] = replace(columns[update.run], notes=tuple(notes))
            elif update.run is not None and update.refused is not None:
                columns[update.run] = replace(columns[update.run], refused=update.refused)
            elif update.run is not None and update.inspection is not None:
                columns[update.run] = replace(columns[update.run], inspection=update.inspection)
                shown["compared"] = comparison(list(columns.values()))
            if shown:
                yield shown
        yield {"compared": comparison(list(columns.values()))}
    except Exception as error:
        yield {"compare_status": _refusal(error, request.video)}


def looked_over(desk: Desk, video: Path | None) -> tuple[str, str]:
    """Check a video that was chosen; return a player and a status."""
    if video is None:
        return "", status("Choose a video")
    try:
        header = desk.look_over(video)
    except HolitomError as error:
        return "", _refusal(error, video)
    seconds = f"{header.seconds:.1f} s" if header.seconds < 60 else f"{header.seconds / 60:.1f} minutes"
    return player(video), status(f"Ready: {video.name}, {header.frames:,} frames, {seconds}")


def player(video: Path) -> str:
    """Write the browser's own player of a video, and a note for a video that the browser cannot play."""
    place = html.escape(f"gradio_api/file={quote(str(video))}")
    named = html.escape(video.name)
    return (
        f'<video src="{place}" title="{named}" controls muted playsinline preload="metadata" '
        'onerror="this.hidden = true; this.nextElementSibling.hidden = false"></video>'
        f"<p hidden>{named} can be asked about, but this browser cannot play it.</p>"
    )


def status(text: str, wrong: bool = False) -> str:
    """Write the status line, which screen readers read out when it changes."""
    return f'<p role="{"alert" if wrong else "status"}">{html.escape(text)}</p>'


def _refusal(error: Exception, video: Path) -> str:
    """Write an error as a status; one that is not the user's is logged.

    A user's error is a sentence, with a capital unless it begins with the file's name.
    """
    if isinstance(error, HolitomError):
        text = str(error)
        text = text if text.startswith(video.name) else text[:1].upper() + text[1:]
    elif isinstance(error, torch.OutOfMemoryError):
        text = "There is not enough memory for this: ask for fewer frames."
    else:
        log.error("a request failed", exc_info=error)
        text = "Something went wrong here, and the server has logged it. The next question will work."
    return status(text, wrong=True)
