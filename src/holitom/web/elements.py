"""Make the elements of the page of `holitom web`; events are in page.py."""

from __future__ import annotations

import html
from itertools import groupby
from typing import Any, get_args

import gradio as gr

from holitom.bundled import DEMO_QUESTION, DEMO_VIDEO, usual_frames
from holitom.video import FramesBy
from holitom.web import controls, words
from holitom.web.answering import MAX_FRAMES, Desk, Request
from holitom.web.cards import answer_card, empty_headline, method_lines
from holitom.web.copying import Loaded
from holitom.web.library import Example
from holitom.web.words import player, status


def head(desk: Desk) -> None:
    """Make the title and the banner."""
    banner = f'<p class="banner" role="note">{html.escape(desk.banner)}</p>' if desk.banner else ""
    gr.HTML(
        "<header><h1>holitom</h1><p class=tag>One question about one video, with full and with merged "
        f"tokens, on {html.escape(desk.title)}.</p>{banner}</header>",
        elem_id="head",
    )


def video_file(megabytes: int, minutes: float) -> tuple[gr.HTML, gr.File]:
    """Make the player and the choice of a video, of at most `megabytes` MB and `minutes`."""
    shown = gr.HTML(player(DEMO_VIDEO), elem_id="player")
    chosen = gr.File(
        str(DEMO_VIDEO),
        file_types=["video"],
        height=96,
        label=f"Video, up to {megabytes} MB and {minutes:g} minutes",
        elem_id="video",
    )
    return shown, chosen


def question_row() -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """Make the question and the buttons that ask and stop."""
    with gr.Row(elem_id="ask-row"):
        question = gr.Textbox(
            DEMO_QUESTION, label="Question", lines=1, scale=6, min_width=120, elem_id="question"
        )
        ask = gr.Button("Ask", variant="primary", scale=1, min_width=70, elem_id="ask")
        stop = gr.Button("Stop", scale=1, min_width=70, elem_id="stop")
    return question, ask, stop


def answers() -> dict[str, Any]:
    """Make the status line, both answers and their headline."""
    said = gr.HTML(status("Ready: press Ask"), elem_id="status")
    with gr.Row(elem_id="answers"):
        full = gr.HTML(answer_card("full"), elem_id="full", min_width=140)
        merged = gr.HTML(answer_card("merged"), elem_id="merged", min_width=140)
    gr.HTML(
        "<p role=status>These results are of other settings. Press Ask for new ones.</p>", elem_id="stale"
    )
    headline = gr.HTML(empty_headline(), elem_id="headline")
    return {"status": said, "full": full, "merged": merged, "headline": headline}


def copies(desk: Desk, loaded: Loaded) -> dict[str, Any]:
    """Make the texts to copy, of a request for the demo video."""
    texts = words.copies(desk, Request(DEMO_VIDEO, DEMO_QUESTION, frames=usual_frames(loaded.model)), loaded)
    kinds: dict[str, tuple[Any, str]] = {
        "python": ("python", "Python"),
        "command": ("shell", "Command line"),
        "vllm": ("shell", "vLLM's server"),
    }
    return {
        name: gr.Code(
            texts[name],
            language,
            label=label,
            elem_id=f"copy-{name}",
            interactive=False,
            wrap_lines=True,
        )
        for name, (language, label) in kinds.items()
    }


def settings(model: str | None) -> list[Any]:
    """Make the controls of a request's settings, in the order of `Request`'s fields behind its question."""
    method = _method_select()
    with gr.Row(equal_height=True):
        retain = gr.Slider(
            controls.STOPS[0] / 100,
            1,
            0.1,
            step=0.01,
            label="Retain ratio",
            info="Share of the visual tokens to send, at most: merging over time may send fewer",
            scale=4,
            min_width=240,
            elem_id="retain",
        )
        frames = gr.Slider(
            1,
            MAX_FRAMES,
            usual_frames(model),
            step=1,
            label="Frames",
            info="Evenly spread, or by what changes",
            scale=3,
            min_width=240,
            elem_id="frames",
        )
    with gr.Accordion("Advanced settings", open=False, elem_id="advanced"), gr.Row():
        threshold = gr.Slider(
            0,
            1,
            controls.usual_threshold("holitom", 0.1),
            step=0.01,
            label="Similarity threshold",
            info="Above it a token is static; set anew when method or retain ratio change",
            min_width=240,
            elem_id="threshold",
        )
        usual_inner, free = controls.merging_inside("holitom")
        inner = gr.Checkbox(
            usual_inner,
            interactive=free,
            label="Merge inside the language model",
            info="The method's own stages where it has some, else HoliTom's",
            min_width=240,
            elem_id="inner",
        )
        reuse = gr.Checkbox(
            False,
            label="Reuse in the vision tower",
            info="Compute of a frame only what differs from a reference frame; not exact",
            min_width=240,
            elem_id="reuse",
        )
        frames_by = gr.Radio(
            list(get_args(FramesBy)),
            value="time",
            label="Frames by",
            info="time: evenly spread; change: of four times as many, those that show the most",
            min_width=240,
            elem_id="frames-by",
        )
    return [method, retain, threshold, inner, frames, reuse, frames_by]


def _method_select() -> gr.HTML:
    """Make the browser's own list of the methods, in groups, one line each."""
    options = "".join(
        f'<optgroup label="{html.escape(group)}">'
        + "".join(
            f'<option value="{name}">{html.escape(line)}</option>' for line, name in method_lines(names)
        )
        + "</optgroup>"
        for group, names in controls.groups().items()
    )
    return gr.HTML(
        "holitom",
        html_template=(
            f'<label for="method-select">Method</label><select id="method-select">{options}</select>'
            '<p id="method-says">&nbsp;</p>'
        ),
        js_on_load="""
            const select = element.querySelector("select");
            const show = () => { select.value = props.value; };
            show();
            select.addEventListener("change", () => { props.value = select.value; trigger("change"); });
            watch("value", show);
        """,
        elem_id="method",
    )


def examples(shown: list[Example]) -> list[tuple[gr.Button, Example]]:
    """Make a button for each example, in a row for each video."""
    clicks = []
    if any(example.answer is not None for example in shown):
        hint = "Examples, right with full tokens; underlined ones are wrong with HoliTom at 10%."
        gr.HTML(f"<p>{hint}</p>", elem_id="examples-title")
    for title, group in groupby(shown, lambda example: example.title):
        with gr.Row(elem_classes="examples"):
            gr.HTML(f"<p>{html.escape(title)}</p>")
            for example in group:
                classes = ["example", "hurts"] if example.hurts else ["example"]
                button = gr.Button(example.text, size="sm", elem_classes=classes)
                clicks.append((button, example))
    return clicks
