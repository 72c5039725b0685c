"""The page itself, in Gradio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the page needs Gradio: pip install 'holitom[web]'") from error

from holitom.bundled import BUNDLED_FRAMES, DEMO_QUESTION, DEMO_VIDEO, USUAL_FRAMES
from holitom.errors import SettingsError
from holitom.methods import METHODS
from holitom.web.answering import MAX_FRAMES, Desk, Request, merging_inside, usual_threshold
from holitom.web.words import Loaded, command, looked_over, player, python, respond, status

KEPT_SECONDS = 3600  # an upload, after which it is removed
AT_ONCE, WAITING = 2, 32  # requests that are worked on (one reads while one is answered), and that may wait

# In words that the bundled model knows; its answers are right with full tokens.
BUNDLED_QUESTIONS = (
    DEMO_QUESTION,
    "How many scenes are there?",
    "Which color comes first?",
    "Which way does the white digit move?",
    "Where is the white digit at the start?",
)
USUAL_QUESTIONS = ("What happens in this video?", "What changes from scene to scene?", "What stands still?")

CSS = """
.html-container { padding: 0 !important }
#player video { display: block; width: 100%; height: 300px; background: #000; border-radius: 4px }
#player video[hidden] { display: none }
#player p { margin: 0 }
#examples { gap: .5rem }
#examples button { flex: 0 1 auto; min-width: 0; width: auto; font-weight: normal }
#status p { margin: 0; min-height: 1.5em }
#status [role=alert] { color: var(--error-text-color); font-weight: 600 }
.prose .figures { width: 100%; border: 0; margin: 0; font-variant-numeric: tabular-nums }
.prose .figures tr { border: 0; border-bottom: 1px solid var(--border-color-primary) }
.prose .figures :is(th, td) { border: 0; padding: .35rem .5rem; text-align: left; font-weight: normal }
.prose .figures th { width: 45%; color: var(--body-text-color-subdued) }
#map iframe { height: min(90vh, 60rem); border-top: 1px solid var(--border-color-primary) !important }
"""


# What each method's threshold is at every stop of the retain ratio's slider, in percent; null: it has none.
STOPS = range(2, 101)
USUAL = {name: [usual_threshold(name, stop / 100) for stop in STOPS] for name in METHODS}
FOLLOW = f"""(method, retain) => {{
    const usual = {json.dumps(USUAL)}[method][Math.round(100 * retain) - {STOPS[0]}];
    return {{__type__: "update", interactive: usual !== null, ...(usual === null ? {{}} : {{value: usual}})}};
}}"""


# Each method's box for merging inside the language model: what it shows, and whether it can be changed.
INSIDE = {name: merging_inside(name) for name in METHODS}
INSIDE_BOX = f"""method => {{
    const [value, interactive] = {json.dumps(INSIDE)}[method];
    return {{__type__: "update", value, interactive}};
}}"""


@dataclass(frozen=True)
class Limits:
    """What may be uploaded."""

    megabytes: int = 200
    minutes: float = 10.0


def build(desk: Desk, loaded: Loaded, limits: Limits) -> gr.Blocks:
    """The page over a desk."""
    bundled = loaded.model is None
    page = gr.Blocks(title="holitom", analytics_enabled=False, delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS))
    with page:
        gr.Markdown(
            f"# holitom\nOne question about one video, with merged and with full tokens, on {desk.title}."
        )
        with gr.Row():
            with gr.Column(scale=3):
                shown = gr.HTML(player(DEMO_VIDEO), elem_id="player")
                video = gr.File(
                    str(DEMO_VIDEO),
                    file_types=["video"],
                    height=130,
                    label=f"Video, up to {limits.megabytes} MB and {limits.minutes:g} minutes",
                    elem_id="video",
                )
                question = gr.Textbox(DEMO_QUESTION, label="Question", lines=1, elem_id="question")
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", scale=3, elem_id="ask")
                    stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
                said = gr.HTML(status("Ready"), elem_id="status")
                gr.Markdown("Or ask about the demo video:")
                with gr.Row(elem_id="examples"):
                    examples = [
                        gr.Button(text, size="sm", elem_classes="example")
                        for text in (BUNDLED_QUESTIONS if bundled else USUAL_QUESTIONS)
                    ]
            with gr.Column(scale=2):
                method = gr.Dropdown(list(METHODS), value="holitom", label="Method", elem_id="method")
                retain = gr.Slider(
                    STOPS[0] / 100,
                    1,
                    0.1,
                    step=0.01,
                    label="Retain ratio",
                    info="Share of the visual tokens to send, at most: merging over time may send fewer",
                    elem_id="retain",
                )
                threshold = gr.Slider(
                    0,
                    1,
                    usual_threshold("holitom", 0.1),
                    step=0.01,
                    label="Similarity threshold",
                    info="Above it a token is static; set anew when method or retain ratio change",
                    elem_id="threshold",
                )
                inner = gr.Checkbox(
                    INSIDE["holitom"][0],
                    interactive=INSIDE["holitom"][1],
                    label="Merge inside the language model",
                    info="The method's own stages where it has some, else HoliTom's",
                    elem_id="inner",
                )
                frames = gr.Slider(
                    1,
                    MAX_FRAMES,
                    BUNDLED_FRAMES if bundled else USUAL_FRAMES,
                    step=1,
                    label="Frames",
                    elem_id="frames",
                )
        places: dict[str, Any] = {"status": said}
        with gr.Row():
            for name, label in {"full": "Full tokens", "merged": "Merged tokens"}.items():
                with gr.Column():
                    places[name] = gr.Textbox(label=label, interactive=False, lines=2, elem_id=name)
                    places[f"{name}_figures"] = gr.HTML(elem_id=f"{name}-figures")
        places["map"] = gr.HTML(elem_id="map")
        with gr.Accordion("The same in Python and on the command line", open=False, elem_id="copy"):
            first = Request(DEMO_VIDEO, DEMO_QUESTION, frames=frames.value)
            places["python"] = gr.Code(
                python(first, loaded), language="python", label="Python", interactive=False
            )
            places["command"] = gr.Code(
                command(first, loaded), language="shell", label="Command line", interactive=False
            )

        def asked(
            video: str | None,
            question: str,
            method: str,
            retain: float,
            threshold: float,
            inner: bool,
            frames: int,
        ) -> Iterator[dict[Any, str]]:
            if not video:
                yield {places["status"]: status("Choose a video first.", wrong=True)}
                return
            request = Request(Path(video), question or "", method, retain, threshold, inner, int(frames))
            for shown in respond(desk, request, loaded):
                yield {places[name]: value for name, value in shown.items()}

        inputs = [video, question, method, retain, threshold, inner, frames]
        work: Any = dict(fn=asked, inputs=inputs, outputs=list(places.values()), show_progress="hidden")
        queued: Any = dict(concurrency_id="ask", concurrency_limit=AT_ONCE)
        runs = [gr.on([ask.click, question.submit], **work, **queued, api_name="ask")]
        for example in examples:
            text = example.value
            chosen = example.click(
                lambda text=text: (str(DEMO_VIDEO), player(DEMO_VIDEO), text),
                outputs=[video, shown, question],
                api_visibility="private",
            )
            runs.append(chosen.then(**work, **queued, api_visibility="private"))
        stop.click(lambda: status("Stopped"), outputs=said, cancels=runs, api_visibility="private")

        def chosen_file(path: str | None) -> tuple[str, str]:
            return looked_over(desk, None if path is None else Path(path))

        gr.on(
            [video.upload, video.clear],
            chosen_file,
            video,
            [shown, said],
            show_progress="hidden",
            api_visibility="private",
        )

        # In the browser, at once: a question asked right after a change must not be answered with what was.
        private: Any = dict(fn=None, api_visibility="private")
        gr.on(
            [method.change, retain.change], inputs=[method, retain], outputs=threshold, js=FOLLOW, **private
        )
        method.change(inputs=method, outputs=inner, js=INSIDE_BOX, **private)
        page.queue(max_size=WAITING)
    return page


def launch(page: gr.Blocks, host: str, port: int | None, limits: Limits) -> str:
    """Start serving in the background; the address.

    Raises:
        SettingsError: the address cannot be had.
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
            max_file_size=limits.megabytes * 2**20,  # a MB as Gradio counts it when it refuses
            allowed_paths=[str(DEMO_VIDEO)],
            theme=gr.themes.Default(primary_hue="blue", font=system[0], font_mono=system[1]).set(
                # The theme's own have too little contrast.
                button_primary_background_fill="*primary_600",
                button_primary_background_fill_hover="*primary_700",
                button_primary_background_fill_dark="*primary_600",
                body_text_color_subdued="*neutral_600",
                block_info_text_color="*neutral_600",
                block_info_text_color_dark="*neutral_400",
            ),
            css=CSS,
        )
    except OSError as error:
        wanted = f"{host}:{port}" if port else host
        raise SettingsError(f"cannot serve at {wanted}: {error}; choose another --host or --port") from error
    return str(local)
