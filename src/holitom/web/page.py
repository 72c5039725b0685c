"""The page of `holitom web` in Gradio: its events, and its server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the page needs Gradio: pip install 'holitom[web]'") from error

from holitom.bundled import DEMO_VIDEO
from holitom.errors import SettingsError
from holitom.inspect.draw_compare import comparison_css
from holitom.inspect.draw_html import element_script
from holitom.web import controls, elements
from holitom.web.answering import MAX_FRAMES, MOST_COMPARED, Desk, Request
from holitom.web.cards import history_table, method_lines
from holitom.web.copying import Loaded
from holitom.web.history import History
from holitom.web.library import FOLDER as EXAMPLES
from holitom.web.library import library
from holitom.web.words import Shown, compare, looked_over, player, respond, status

KEPT_SECONDS = 3600  # an upload is removed after
AT_ONCE, WAITING = 2, 32  # requests that run (the video of one is read while the other is answered) and wait
SESSIONS = 64  # whose controls, last results and runs Gradio keeps in memory; the one used last stays longest

COMPARED = ["holitom", "visionzip", "fastvid"]  # chosen at first

# Options of events: events outside the page's interface, those of them without a sign of progress, those that
# run in the browser, so that a question asked right after a change is sent with the new values, and runs.
PRIVATE: Any = dict(api_visibility="private")
UNSEEN: Any = dict(show_progress="hidden", **PRIVATE)
IN_BROWSER: Any = dict(fn=None, **PRIVATE)
QUEUED: Any = dict(concurrency_id="ask", concurrency_limit=AT_ONCE, show_progress="hidden")


@dataclass(frozen=True)
class Limits:
    """Limits on an upload: its size in MB, and the video's length in minutes."""

    megabytes: int = 200
    minutes: float = 10.0


def build(desk: Desk, loaded: Loaded, limits: Limits) -> gr.Blocks:
    """Build the page of a desk."""
    page = gr.Blocks(title="holitom", analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS))
    with page:
        elements.head(desk)
        history = gr.State((), time_to_live=KEPT_SECONDS)
        with gr.Row(equal_height=False, elem_id="top"):
            with gr.Column(scale=5, min_width=280, elem_id="video-column"):
                shown, video = elements.video_file(limits.megabytes, limits.minutes)
            with gr.Column(scale=7, min_width=280, elem_id="results"):
                question, ask, stop = elements.question_row()
                places = elements.answers()
            with gr.Column(scale=5, min_width=280, elem_id="library"):
                examples = elements.examples(library(loaded.model))
            with gr.Column(scale=7, min_width=280, elem_id="settings"):
                inputs = [video, question, *elements.settings(loaded.model)]
        with gr.Tabs(elem_id="more"):
            with gr.Tab("Token map"):
                drawn = gr.HTML(elem_id="map")
            with gr.Tab("Compare"):
                comparing = _compare(desk, inputs)
            with gr.Tab("Runs"):
                runs = gr.HTML(history_table(()), elem_id="runs")
            with gr.Tab("Copy"):
                texts = elements.copies(desk, loaded)
        places |= {"history": history, "runs": runs, "map": drawn, **texts}
        work = _answering(desk, loaded, inputs, places)
        asking = [gr.on([ask.click, question.submit], **work, api_name="ask")]
        for button, example in examples:
            chosen = button.click(
                lambda example=example: (str(example.video), player(example.video), example.text),
                outputs=[video, shown, question],
                **UNSEEN,
            )
            asking.append(chosen.then(**work, **PRIVATE))
        said = places["status"]
        stop.click(lambda: status("Stopped"), outputs=said, cancels=[*asking, comparing], **UNSEEN)
        gr.on(
            [video.upload, video.clear],
            lambda path: looked_over(desk, None if path is None else Path(path)),
            video,
            [shown, said],
            **UNSEEN,
        )
        _follow(page, inputs)
        page.queue(max_size=WAITING)
    return page


def _answering(desk: Desk, loaded: Loaded, inputs: list[Any], places: dict[str, Any]) -> dict[str, Any]:
    """Make the event that answers a question."""

    def asked(history: History, *values: Any) -> Iterator[dict[Any, Any]]:
        yield from _changes(places, "status", values, lambda one: respond(desk, one, loaded, history))

    return dict(
        fn=asked,
        inputs=[places["history"], *inputs],
        outputs=list(places.values()),
        js="(history, ...inputs) => [history, ...holitom.ask(...inputs)]",
        **QUEUED,
    )


def _compare(desk: Desk, inputs: list[Any]) -> Any:
    """Make the tab that compares methods; return its event."""
    many = gr.Dropdown(
        method_lines(name for names in controls.groups().values() for name in names),
        value=COMPARED,
        multiselect=True,
        max_choices=MOST_COMPARED,
        label=f"Two to {MOST_COMPARED} methods, with the question, ratio, frames and reuse above",
        elem_id="many",
    )
    button = gr.Button("Compare", variant="primary", elem_id="compare-ask")
    said = gr.HTML(status("Choose methods"), elem_id="compare-status")
    places = {"compare_status": said, "compared": gr.HTML(elem_id="compared")}

    def compared(methods: list[str], *values: Any) -> Iterator[dict[Any, Any]]:
        yield from _changes(places, "compare_status", values, lambda one: compare(desk, one, methods))

    return button.click(compared, [many, *inputs], list(places.values()), api_name="compare", **QUEUED)


def _changes(
    places: dict[str, Any], said: str, values: tuple[Any, ...], work: Callable[[Request], Iterator[Shown]]
) -> Iterator[dict[Any, Any]]:
    """Yield the changes of `places` that `work` names for a request.

    Args:
        places: elements by the names that `work` uses.
        said: name of the status line.
        values: the fields of a `Request`, as the page holds them.
        work: `respond` or `compare`.
    """
    video, question, method, retain, threshold, inner, frames, *rest = values
    if not video:
        yield {places[said]: status("Choose a video first.", wrong=True)}
        return
    request = Request(Path(video), question or "", method, retain, threshold, inner, int(frames), *rest)
    for shown in work(request):
        yield {places[name]: value for name, value in shown.items()}


def _follow(page: gr.Blocks, inputs: list[Any]) -> None:
    """Update controls that depend on others, and mark results once the settings differ from theirs."""
    _, _, method, retain, threshold, inner, frames, *_ = inputs
    gr.on(
        [method.change, frames.change],
        inputs=[method, retain, frames],
        outputs=retain,
        js="(...all) => { holitom.describe(all[0], all[2]); return holitom.least(...all); }",
        **IN_BROWSER,
    )
    gr.on(
        [method.change, retain.change],
        inputs=[method, retain],
        outputs=threshold,
        js="(...all) => holitom.threshold(...all)",
        **IN_BROWSER,
    )
    method.change(inputs=method, outputs=inner, js="method => holitom.inner(method)", **IN_BROWSER)
    gr.on(
        [one.change for one in inputs],
        inputs=inputs,
        js="(...inputs) => { holitom.changed(...inputs); }",
        **IN_BROWSER,
    )
    page.load(
        inputs=[method, frames], js="(method, frames) => { holitom.describe(method, frames); }", **IN_BROWSER
    )


def _part(name: str) -> str:
    return (files("holitom.web") / name).read_text(encoding="utf-8")


def script(desk: Desk) -> str:
    """Join the scripts that the browser runs once: of the page, with its table of methods, and of the map."""
    table = json.dumps(controls.table(MAX_FRAMES, desk.frames_per_step, desk.tokens_per_step))
    known = f"holitom.table = {table};\nholitom.first = {controls.STOPS[0]};\n"
    return _part("page.js") + known + element_script()


def launch(page: gr.Blocks, desk: Desk, host: str, port: int | None, limits: Limits) -> str:
    """Start serving in the background; return the address.

    Raises:
        SettingsError: the server cannot listen at `host` and `port`.
    """
    system = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # nothing to fetch
    try:
        _, local, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            state_session_capacity=SESSIONS,
            max_file_size=limits.megabytes * 2**20,  # a MB as Gradio counts it when it refuses
            allowed_paths=[str(DEMO_VIDEO), str(EXAMPLES)],
            theme=gr.themes.Default(primary_hue="blue", font=system[0], font_mono=system[1]).set(
                # The theme's own colours have too little contrast.
                button_primary_background_fill="*primary_600",
                button_primary_background_fill_hover="*primary_700",
                button_primary_background_fill_dark="*primary_600",
                body_text_color_subdued="*neutral_600",
                block_info_text_color="*neutral_600",
                block_info_text_color_dark="*neutral_400",
            ),
            css=_part("page.css") + comparison_css(),
            head=f"<script>{script(desk)}</script>",
        )
    except OSError as error:
        wanted = f"{host}:{port}" if port else host
        raise SettingsError(f"cannot serve at {wanted}: {error}; choose another --host or --port") from error
    return str(local)
