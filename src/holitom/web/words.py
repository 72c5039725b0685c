"""What the page says: errors as sentences, figures as a table, and the same thing to copy."""

from __future__ import annotations

import filecmp
import html
import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch

from holitom.ask import Answer
from holitom.bundled import DEMO_VIDEO
from holitom.errors import HolitomError
from holitom.inspect import embed
from holitom.methods.registry import method_class
from holitom.web.answering import Desk, Request, Update

log = logging.getLogger(__name__)

COMPARED_TOKENS = 8  # in an answer; the speed of decoding fewer is mostly chance


@dataclass(frozen=True)
class Loaded:
    """How the model was loaded, as `holitom ask` takes it. `model` None: the bundled one."""

    model: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    max_new_tokens: int = 64

    @property
    def places(self) -> dict[str, str]:
        """Precision and device, where they are not left to choose."""
        given = {"dtype": self.dtype, "device": self.device}
        return {name: value for name, value in given.items() if value != "auto"}


def respond(desk: Desk, request: Request, loaded: Loaded) -> Iterator[dict[str, str]]:
    """What changes on the page, by the name of its place; an error is one more status."""
    places = ("merged", "merged_figures", "full", "full_figures", "map")
    merged: Answer | None = None
    try:
        request.chosen()
        yield dict.fromkeys(places, "") | {
            "status": status("Looking the request over"),
            "python": python(request, loaded),
            "command": command(request, loaded),
        }
        for update in desk.answers(request):
            yield _shown(update, merged)
            merged = merged or update.answer
    except HolitomError as error:
        yield {"status": _refusal(error, request.video)}
    except torch.OutOfMemoryError:
        yield {"status": status("There is not enough memory for this: ask for fewer frames.", wrong=True)}
    except Exception:
        log.exception("a request failed")
        said = "Something went wrong here, and the server has logged it. The next question will work."
        yield {"status": status(said, wrong=True)}


def _shown(update: Update, merged: Answer | None) -> dict[str, str]:
    """`merged`: that answer, if it is complete already."""
    shown = {}
    if update.status is not None:
        shown["status"] = status(update.status)
    if update.run is not None and update.text is not None:
        shown[update.run] = update.text
    if update.answer is not None:
        shown[f"{update.run}_figures"] = figures(update.answer)
        if merged is not None:
            shown["merged_figures"] = figures(merged, update.answer)
    if update.inspection is not None:
        shown["map"] = embed(update.inspection)
    return shown


def looked_over(desk: Desk, video: Path | None) -> tuple[str, str]:
    """A player, and a status, for a video that was chosen."""
    if video is None:
        return "", status("Choose a video")
    try:
        header = desk.look_over(video)
    except HolitomError as error:
        return "", _refusal(error, video)
    seconds = f"{header.seconds:.1f} s" if header.seconds < 60 else f"{header.seconds / 60:.1f} minutes"
    return player(video), status(f"Ready: {video.name}, {header.frames:,} frames, {seconds}")


def player(video: Path) -> str:
    """The video to look at, by the browser's own player; one that it cannot play may still be asked about."""
    place = html.escape(f"gradio_api/file={quote(str(video))}")
    named = html.escape(video.name)
    return (
        f'<video src="{place}" title="{named}" controls muted playsinline preload="metadata" '
        'onerror="this.hidden = true; this.nextElementSibling.hidden = false"></video>'
        f"<p hidden>{named} can be asked about, but this browser cannot play it.</p>"
    )


def status(text: str, wrong: bool = False) -> str:
    """A line that screen readers read out when it changes."""
    return f'<p role="{"alert" if wrong else "status"}">{html.escape(text)}</p>'


def _refusal(error: HolitomError, video: Path) -> str:
    """As a sentence, which begins with a capital unless it begins with the file's name."""
    text = str(error)
    return status(text if text.startswith(video.name) else text[:1].upper() + text[1:], wrong=True)


def figures(answer: Answer, full: Answer | None = None) -> str:
    """One run's figures as a table, compared with those of full tokens once they are there."""
    (video,), report = answer.report.videos, answer.report
    tokens, cache = f"{answer.visual_tokens:,}", f"{report.kv_bytes / 1e6:.2f} MB"
    first, rate = f"{1000 * answer.time_to_first_token:.0f} ms", answer.decode_tokens_per_second
    decoding = "-" if rate is None else f"{rate:.1f} tokens/s"
    if answer.visual_tokens < video.tokens:
        tokens += f" ({answer.visual_tokens / video.tokens:.1%})"
    if answer.last_layer is not None:
        tokens += f", {answer.remaining_tokens:,} from layer {answer.last_layer} on"
    if report.kv_bytes < report.kv_bytes_full:
        cache += f" ({report.kv_bytes / report.kv_bytes_full:.1%})"
    if full is not None:
        first += f" ({full.time_to_first_token / answer.time_to_first_token:.2f}x as fast)"
        usual = full.decode_tokens_per_second
        enough = min(answer.new_tokens, full.new_tokens) >= COMPARED_TOKENS
        if rate is not None and usual is not None and enough:
            decoding += f" ({rate / usual:.2f}x as fast)"
    rows = {"visual tokens": tokens, "time to first token": first, "decoding": decoding, "KV cache": cache}
    cells = "".join(f"<tr><th scope=row>{html.escape(k)}<td>{html.escape(v)}" for k, v in rows.items())
    return f"<table class=figures>{cells}</table>"


def python(request: Request, loaded: Loaded) -> str:
    """The merged answer in Python."""
    kind = method_class(request.method).__name__
    settings = {name: f"{value:g}" for name, value in request.settings.items()}
    inside = ".with_inner(HoliTom())" if request.changed_inner else ""
    if request.changed_inner is False and kind in ("HoliTom", "HoliTomPlus"):
        settings["inner_drop"] = "None"
    elif request.changed_inner is False:
        inside = ".without_inner()"
    classes = sorted({kind, "HoliTom"} if request.changed_inner else {kind})
    bundled = ["BUNDLED_MODEL"] * (loaded.model is None) + ["DEMO_VIDEO"] * _is_demo(request)
    how = "".join(f", {name}={value!r}" for name, value in loaded.places.items())
    longest = "" if loaded.max_new_tokens == 64 else f", max_new_tokens={loaded.max_new_tokens}"
    lines = [
        "from holitom.ask import ask, load_model, prompt",
        *([f"from holitom.bundled import {', '.join(bundled)}"] if bundled else []),
        f"from holitom.methods import {', '.join(classes)}",
        "from holitom.video import load_video",
        "",
        f"model, processor = load_model({_python_model(loaded)}{how})",
        f"video = load_video({_python_video(request)}, frames={request.frames})",
        f"inputs = prompt(processor, video, {request.question!r})",
        f"method = {kind}({', '.join(f'{k}={v}' for k, v in settings.items())}){inside}",
        f"answer = ask(model, processor, inputs, method{longest})",
        "print(answer.text)",
        "print(answer.report)",
    ]
    return "\n".join(lines)


def _python_model(loaded: Loaded) -> str:
    return "str(BUNDLED_MODEL)" if loaded.model is None else repr(loaded.model)


def _python_video(request: Request) -> str:
    return "DEMO_VIDEO" if _is_demo(request) else repr(request.video.name)


def command(request: Request, loaded: Loaded) -> str:
    """Both answers on the command line."""
    # Where the demo lies differs from machine to machine; Python knows.
    asked = "\"$(python -c 'from holitom.bundled import DEMO_VIDEO; print(DEMO_VIDEO)')\""
    video = asked if _is_demo(request) else shlex.quote(request.video.name)
    options = ["--compare", f"--frames {request.frames}"]
    if loaded.model is not None:
        options.append(f"--model {shlex.quote(loaded.model)}")
    if request.method != "holitom":
        options.append(f"--method {request.method}")
    flags = {"retain_ratio": "retain", "similarity_threshold": "threshold"}
    options += [f"--{flags[name]} {value:g}" for name, value in request.settings.items()]
    if request.changed_inner is not None:
        options.append("--inner" if request.changed_inner else "--no-inner")
    options += [f"--{name} {shlex.quote(value)}" for name, value in loaded.places.items()]
    if loaded.max_new_tokens != 64:
        options.append(f"--max-new-tokens {loaded.max_new_tokens}")
    if request.question.startswith("-") or video.startswith("-"):
        options.append("--")
    return " ".join(["holitom ask", *options, video, shlex.quote(request.question)])


def _is_demo(request: Request) -> bool:
    """By what is in it: the page works on copies."""
    return request.video.is_file() and filecmp.cmp(request.video, DEMO_VIDEO, shallow=False)
