"""The page of `holitom web` in Gradio."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the page needs Gradio: pip install 'holitom[web]'") from error

from holitom.bundled import DEMO_QUESTION, DEMO_VIDEO, usual_frames
from holitom.errors import SettingsError
from holitom.inspect.draw_compare import comparison_css
from holitom.inspect.draw_html import element_script
from holitom.video import FramesBy
from holitom.web import controls
from holitom.web.answering import MAX_FRAMES, MOST_COMPARED, Desk, Request
from holitom.web.cards import answer_card, empty_headline, history_table, method_lines
from holitom.web.copying import Loaded
from holitom.web.history import History
from holitom.web.library import FOLDER as EXAMPLES
from holitom.web.library import Example, library
from holitom.web.words import compare, copies, looked_over, player, respond, status

KEPT_SECONDS = 3600  # an upload is removed after
AT_ONCE, WAITING = 2, 32  # requests that run (the video of one is read while the other is answered) and wait
SESSIONS = 64  # whose controls, last results and runs Gradio keeps in memory; the one used last stays longest
COMPARED = ["holitom", "visionzip", "fastvid"]  # chosen at first


@dataclass(frozen=True)
class Limits:
    """Limits on an upload: its size in MB, and the video's length in minutes."""

    megabytes: int = 200
    minutes: float = 10.0


# These events run in the browser, so that a question asked right after a change is sent with the new values.
IN_BROWSER: Any = dict(fn=None, api_visibility="private")
PRIVATE: Any = dict(api_visibility="private")


def build(desk: Desk, loaded: Loaded, limits: Limits) -> gr.Blocks:
    """Build the page of a desk."""
    page = gr.Blocks(title="holitom", analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS))
    with page:
        _head(desk)
        history = gr.State((), time_to_live=KEPT_SECONDS)
        with gr.Row(equal_height=False, elem_id="top"):
            with gr.Column(scale=5, min_width=280, elem_id="video-column"):
                shown = gr.HTML(player(DEMO_VIDEO), elem_id="player")
                video = gr.File(
                    str(DEMO_VIDEO),
                    file_types=["video"],
                    height=96,
                    label=f"Video, up to {limits.megabytes} MB and {limits.minutes:g} minutes",
                    elem_id="video",
                )
            with gr.Column(scale=7, min_width=280, elem_id="results"):
                with gr.Row(elem_id="ask-row"):
                    question = gr.Textbox(
                        DEMO_QUESTION, label="Question", lines=1, scale=6, min_width=120, elem_id="question"
                    )
                    ask = gr.Button("Ask", variant="primary", scale=1, min_width=70, elem_id="ask")
                    stop = gr.Button("Stop", scale=1, min_width=70, elem_id="stop")
                said = gr.HTML(status("Ready: press Ask"), elem_id="status")
                with gr.Row(elem_id="answers"):
                    full = gr.HTML(answer_card("full"), elem_id="full", min_width=140)
                    merged = gr.HTML(answer_card("merged"), elem_id="merged", min_width=140)
                gr.HTML(
                    "<p role=status>These results are of other settings. Press Ask for new ones.</p>",
                    elem_id="stale",
                )
                headline = gr.HTML(empty_headline(), elem_id="headline")
            with gr.Column(scale=5, min_width=280, elem_id="library"):
                clicks = _examples(library(loaded.model))
            with gr.Column(scale=7, min_width=280, elem_id="settings"):
                settings = _settings(loaded.model)
        inputs = [video, question, *settings]
        places: dict[str, Any] = {"status": said, "full": full, "merged": merged, "headline": headline}
        places["history"] = history
        with gr.Tabs(elem_id="more"):
            with gr.Tab("Token map"):
                places["map"] = gr.HTML(elem_id="map")
            with gr.Tab("Compare"):
                many = gr.Dropdown(
                    method_lines(name for names in controls.groups().values() for name in names),
                    value=COMPARED,
                    multiselect=True,
                    max_choices=MOST_COMPARED,
                    label=f"Two to {MOST_COMPARED} methods, with the question, ratio, frames and reuse above",
                    elem_id="many",
                )
                compare_button = gr.Button("Compare", variant="primary", elem_id="compare-ask")
                places["compare_status"] = gr.HTML(status("Choose methods"), elem_id="compare-status")
                places["compared"] = gr.HTML(elem_id="compared")
            with gr.Tab("Runs"):
                places["runs"] = gr.HTML(history_table(()), elem_id="runs")
            with gr.Tab("Copy"):
                demo = Request(DEMO_VIDEO, DEMO_QUESTION, frames=usual_frames(loaded.model))
                first = copies(desk, demo, loaded)
                code: Any = dict(interactive=False, wrap_lines=True)
                places["python"] = gr.Code(
                    first["python"], "python", label="Python", elem_id="copy-python", **code
                )
                places["command"] = gr.Code(
                    first["command"], "shell", label="Command line", elem_id="copy-command", **code
                )
                places["vllm"] = gr.Code(
                    first["vllm"], "shell", label="vLLM's server", elem_id="copy-vllm", **code
                )

        def request_of(video: str | None, question: str, *settings: Any) -> Request | None:
            method, retain, threshold, inner, frames, *rest = settings
            if not video:
                return None
            return Request(Path(video), question or "", method, retain, threshold, inner, int(frames), *rest)

        def asked(history: History, *values: Any) -> Iterator[dict[Any, Any]]:
            request = request_of(*values)
            if request is None:
                yield {places["status"]: status("Choose a video first.", wrong=True)}
                return
            for shown in respond(desk, request, loaded, history):
                yield {places[name]: value for name, value in shown.items()}

        def compared(methods: list[str], *values: Any) -> Iterator[dict[Any, Any]]:
            request = request_of(*values)
            if request is None:
                yield {places["compare_status"]: status("Choose a video first.", wrong=True)}
                return
            for shown in compare(desk, request, methods):
                yield {places[name]: value for name, value in shown.items()}

        hidden: Any = dict(show_progress="hidden")
        queued: Any = dict(concurrency_id="ask", concurrency_limit=AT_ONCE)
        both = ["status", "full", "merged", "headline", "history", "runs", "map", "python", "command", "vllm"]
        work: Any = dict(
            fn=asked,
            inputs=[history, *inputs],
            outputs=[places[name] for name in both],
            js="(history, ...inputs) => [history, ...holitom.ask(...inputs)]",
            **hidden,
            **queued,
        )
        runs = [gr.on([ask.click, question.submit], **work, api_name="ask")]
        for button, example in clicks:
            chosen = button.click(
                lambda example=example: (str(example.video), player(example.video), example.text),
                outputs=[video, shown, question],
                **PRIVATE,
                **hidden,
            )
            runs.append(chosen.then(**work, **PRIVATE))
        side_by_side = compare_button.click(
            compared,
            [many, *inputs],
            [places["compare_status"], places["compared"]],
            api_name="compare",
            **hidden,
            **queued,
        )
        stop.click(
            lambda: status("Stopped"), outputs=said, cancels=[*runs, side_by_side], **PRIVATE, **hidden
        )
        gr.on(
            [video.upload, video.clear],
            lambda path: looked_over(desk, None if path is None else Path(path)),
            video,
            [shown, said],
            **hidden,
            **PRIVATE,
        )
        _follow(page, inputs)
        page.queue(max_size=WAITING)
    return page


def _head(desk: Desk) -> None:
    banner = f'<p class="banner" role="note">{html.escape(desk.banner)}</p>' if desk.banner else ""
    gr.HTML(
        "<header><h1>holitom</h1><p class=tag>One question about one video, with full and with merged "
        f"tokens, on {html.escape(desk.title)}.</p>{banner}</header>",
        elem_id="head",
    )


def _settings(model: str | None) -> list[Any]:
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


def _examples(examples: list[Example]) -> list[tuple[gr.Button, Example]]:
    """Make a button for each example, in a row for each video."""
    clicks = []
    if any(example.answer is not None for example in examples):
        hint = "Examples, right with full tokens; underlined ones are wrong with HoliTom at 10%."
        gr.HTML(f"<p>{hint}</p>", elem_id="examples-title")
    for title, group in groupby(examples, lambda example: example.title):
        with gr.Row(elem_classes="examples"):
            gr.HTML(f"<p>{html.escape(title)}</p>")
            for example in group:
                classes = ["example", "hurts"] if example.hurts else ["example"]
                button = gr.Button(example.text, size="sm", elem_classes=classes)
                clicks.append((button, example))
    return clicks


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
