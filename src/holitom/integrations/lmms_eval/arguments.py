"""The arguments of `--model_args`: the checkpoint, how it is run, and a method with its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from holitom.bundled import BUNDLED_MODEL
from holitom.errors import SettingsError
from holitom.methods.base import Method, require
from holitom.methods.choose import FULL, read_method
from holitom.methods.registry import method_class
from holitom.video import FramesBy, Sampling


@dataclass(frozen=True)
class Arguments:
    """Validated arguments of `--model_args`.

    Attributes:
        pretrained: a checkpoint's folder, Hugging Face id or bundled model's name; by default the first
            bundled one.
        method: method that is attached to the model; None (`method=full`): the model runs without.
        max_frames_num: frames sampled from each video.
        frames_by: how they are chosen, "time" or "change", see `holitom.video.FramesBy`.
        dtype: "auto" (as the checkpoint says) or a torch name such as "float16".
        device: "auto" (this process's GPU, else the CPU) or a torch name.
        device_map: transformers' `device_map` ("auto"), to spread one model over several devices; excludes
            `device`.
        attn_implementation: "sdpa", "flash_attention_2" or "eager"; None lets transformers choose.
        chat_template: a Jinja file that replaces the checkpoint's chat template.
        batch_size: questions answered at a time; lmms-eval sets it from `--batch_size`.
        readers: number of threads that decode videos ahead of the model.
    """

    pretrained: str = str(BUNDLED_MODEL)
    method: Method | None = None
    max_frames_num: int = 32
    frames_by: FramesBy = "time"
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    attn_implementation: str | None = None
    chat_template: str | None = None
    batch_size: int = 1
    readers: int = 4

    def __post_init__(self) -> None:
        for field in ("max_frames_num", "batch_size", "readers"):
            require(field, getattr(self, field), "a whole number of at least 1", lambda n: n >= 1, whole=True)
        if self.device_map is not None and self.device != "auto":
            raise SettingsError("give either device or device_map, not both")
        _ = self.sampling  # raises an error for settings out of range

    @property
    def sampling(self) -> Sampling:
        """The frames to sample from each video."""
        return Sampling(self.max_frames_num, frames_by=self.frames_by)


def read_arguments(given: Mapping[str, Any]) -> Arguments:
    """Read `--model_args`: arguments of the run, and settings of `method` (default `holitom`).

    `method` is written as `holitom.methods.choose` reads it. `inner=true` adds HoliTom's inner stage,
    `inner=false` removes the method's own.

    Args:
        given: values as lmms-eval parses `name=value`: bool, int, float or str. `none` stands for None, and a
            list is written as JSON (`borders=[0.25,0.5]`).

    Raises:
        SettingsError: an argument is unknown (the message lists the known ones) or out of range.
    """
    values = {name: _value(value) for name, value in given.items()}
    text = str(values.pop("method", "holitom"))
    name = read_method(text).name
    known = [] if name == FULL else [field.name for field in fields(method_class(name)) if field.init]
    own = [field.name for field in fields(Arguments) if field.name != "method"]
    for argument in values:
        if argument not in (*own, *known, "inner"):
            takes = f"{name} takes inner, {', '.join(known)}" if known else "full takes no other"
            raise SettingsError(
                f"unknown model argument {argument!r}; known: method, {', '.join(own)}; and {takes}"
            )
    inner = values.pop("inner", None)
    settings = {field: values.pop(field) for field in known if field in values}
    if "batch_size" in values:
        values["batch_size"] = _whole(values["batch_size"])
    choice = read_method(text, settings, inner)
    return Arguments(method=None if name == FULL else choice.make(), **values)


def _value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    if value.startswith("["):
        try:
            return tuple(json.loads(value))
        except json.JSONDecodeError:
            return value
    return value


def _whole(value: Any) -> Any:
    """Read `--batch_size`, which arrives as text; `require` then refuses `auto`."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value
