"""Texts to copy that repeat a run: Python, a command, and vLLM's command."""

from __future__ import annotations

import filecmp
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from holitom.bundled import DEMO_VIDEO, checkpoint, is_bundled
from holitom.errors import HolitomError
from holitom.integrations.vllm import FAMILIES
from holitom.integrations.vllm.settings import method_of
from holitom.methods.registry import method_class
from holitom.web.answering import Request


@dataclass(frozen=True)
class Loaded:
    """How the model was loaded, in the options of `holitom ask`; `model` None: the bundled one."""

    model: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    max_new_tokens: int = 64

    @property
    def places(self) -> dict[str, str]:
        """Precision and device, without those that are "auto"."""
        given = {"dtype": self.dtype, "device": self.device}
        return {name: value for name, value in given.items() if value != "auto"}


def python(request: Request, loaded: Loaded) -> str:
    """Write the answer with merged tokens in Python."""
    kind = method_class(request.method).__name__
    settings = {
        name: str(value) if isinstance(value, bool) else f"{value:g}"
        for name, value in request.settings.items()
    }
    inside = ".with_inner(HoliTom())" if request.changed_inner else ""
    if request.changed_inner is False and kind in ("HoliTom", "HoliTomPlus"):
        settings["inner_drop"] = "None"
    elif request.changed_inner is False:
        inside = ".without_inner()"
    classes = sorted({kind, "HoliTom"} if request.changed_inner else {kind})
    model = "str(BUNDLED_MODEL)" if loaded.model is None else repr(loaded.model)
    video = "DEMO_VIDEO" if _is_demo(request) else repr(request.video.name)
    bundled = ["BUNDLED_MODEL"] * (loaded.model is None) + ["DEMO_VIDEO"] * (video == "DEMO_VIDEO")
    how = "".join(f", {name}={value!r}" for name, value in loaded.places.items())
    chosen = "" if request.frames_by == "time" else f", frames_by={request.frames_by!r}"
    longest = "" if loaded.max_new_tokens == 64 else f", max_new_tokens={loaded.max_new_tokens}"
    lines = [
        "from holitom.ask import ask, load_model, prompt",
        *([f"from holitom.bundled import {', '.join(bundled)}"] if bundled else []),
        f"from holitom.methods import {', '.join(classes)}",
        "from holitom.video import load_video",
        "",
        f"model, processor = load_model({model}{how})",
        f"video = load_video({video}, frames={request.frames}{chosen})",
        f"inputs = prompt(processor, video, {request.question!r})",
        f"method = {kind}({', '.join(f'{k}={v}' for k, v in settings.items())}){inside}",
        f"answer = ask(model, processor, inputs, method{longest})",
        "print(answer.text)",
        "print(answer.report)",
    ]
    return "\n".join(lines)


def command(request: Request, loaded: Loaded) -> str:
    """Write both answers as a command."""
    # The path of the demo differs from machine to machine.
    asked = "\"$(python -c 'from holitom.bundled import DEMO_VIDEO; print(DEMO_VIDEO)')\""
    video = asked if _is_demo(request) else shlex.quote(request.video.name)
    options = ["--compare", f"--frames {request.frames}"]
    if request.frames_by != "time":
        options.append(f"--frames-by {request.frames_by}")
    if loaded.model is not None:
        options.append(f"--model {shlex.quote(loaded.model)}")
    if request.method != "holitom":
        options.append(f"--method {request.method}")
    flags = {"retain_ratio": "retain", "similarity_threshold": "threshold"}
    options += [f"--{flags[name]} {request.settings[name]:g}" for name in flags if name in request.settings]
    if request.reuse:
        options.append("--reuse")
    if request.changed_inner is not None:
        options.append("--inner" if request.changed_inner else "--no-inner")
    options += [f"--{name} {shlex.quote(value)}" for name, value in loaded.places.items()]
    if loaded.max_new_tokens != 64:
        options.append(f"--max-new-tokens {loaded.max_new_tokens}")
    if request.question.startswith("-") or video.startswith("-"):
        options.append("--")
    return " ".join(["holitom ask", *options, video, shlex.quote(request.question)])


def vllm(request: Request, loaded: Loaded, config: Any) -> str:
    """Write vLLM's command that serves the model with this method, or a comment that says why it cannot.

    Args:
        request: the method, its settings, and the number of frames of a video.
        loaded: the model.
        config: the model's config.
    """
    kind = next(iter(config.architectures or ["this model's class"]))
    if kind not in FAMILIES:
        return f"# holitom's vLLM plugin does not serve {kind}."
    entry: dict[str, Any] = {} if request.method == "holitom" else {"method": request.method}
    entry |= request.settings
    if request.changed_inner is not None:
        entry["inner"] = request.changed_inner
    notes = []
    if request.method in ("holitom", "holitom-plus") and request.changed_inner is None:
        notes.append("# Without the merging inside the language model, which a paged cache rules out.")
    if request.frames_by != "time":
        notes.append("# vLLM's server reads videos itself, with frames evenly spread.")
    try:
        method_of(SimpleNamespace(holitom=entry, get_text_config=config.get_text_config))
    except HolitomError as error:
        return f"# Not in vLLM: {error}"
    where = _served(loaded.model)
    overrides = shlex.quote(json.dumps({"holitom": entry}))
    media = shlex.quote(json.dumps({"video": {"num_frames": request.frames}}))
    served = f"vllm serve {where} --hf-overrides {overrides} --media-io-kwargs {media}"
    return "\n".join([*notes, served])


def _served(model: str | None) -> str:
    """Write the model for `vllm serve`, which knows folders and ids, but no names of bundled models."""
    if not is_bundled(model):
        return shlex.quote(str(model))
    name = Path(checkpoint(model)).name
    return f'"$(python -c \'from holitom.bundled import BUNDLED_MODELS as known; print(known["{name}"])\')"'


def _is_demo(request: Request) -> bool:
    """Tell whether a file has the content of the demo video; the page works on copies of it."""
    return request.video.is_file() and filecmp.cmp(request.video, DEMO_VIDEO, shallow=False)
