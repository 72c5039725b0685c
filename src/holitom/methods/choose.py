"""Read a method as users write it: name, settings, and whether it has an inner stage.

The command line, the web page, the benchmarks, lmms-eval and vLLM all read methods here. A method is written

    name                    fastvid
    name[setting=value,...] fastvid[knn=5], holitom[inner_drop=none], pdrop[borders=(0.1,0.5)]
    name+inner              fastvid+inner: with HoliTom's inner stage
    name+inner[setting=...] fastvid+inner[inner_drop=0.3]: with these settings of the inner stage

Settings may also be given apart from the text, as options of a command or entries of a mapping, and so may
the choice of an inner stage (`--inner`, `--no-inner`, `inner=true`). `Method.with_inner` and
`Method.without_inner` decide which inner stages a method takes, and whether it works without.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.methods.registry import METHODS, get_method, method_class

FULL = "full"  # every token, before and inside the language model
WITHOUT_INNER = "holitom-outer"  # the paper's "w/o M"
NAMES = ("holitom", WITHOUT_INNER, *(name for name in METHODS if name != "holitom"))

_WRITTEN = re.compile(r"([\w-]+)(?:\[([^\[\]]*)\])?(?:(\+inner)(?:\[([^\[\]]*)\])?)?")
_WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Choice:
    """One method and some of its settings, from which methods of any budget are made.

    Attributes:
        text: the method as it was written.
        name: a name in `METHODS`, or "full".
        settings: the settings that were given.
        inner: True: with HoliTom's inner stage. False: without inner stages. None: the method's default.
        inner_settings: settings of the HoliTom whose inner stage is added.
    """

    text: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inner: bool | None = None
    inner_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def retain_ratio(self) -> float | None:
        """The retain ratio among the settings; None where it was not given."""
        ratio: float | None = self.settings.get("retain_ratio")
        return ratio

    @property
    def label(self) -> str:
        """The name in tables: `HoliTom w/o M`, `VisionZip + inner`, `HoliTom [knn=5]`."""
        if self.name == FULL:
            return "full tokens"
        label = method_class(self.name).__name__
        outer, _, inside = self.text.partition("+inner")
        bracket = outer.find("[")
        written = f" {outer[bracket:]}" if bracket >= 0 else ""
        if self.inner is False and "inner_drop" in _fields(self.name):
            return f"{label} w/o M{written}"
        if self.inner is False and method_class(self.name)().merges_inside:
            return f"{label} w/o inner{written}"
        if self.inner and not method_class(self.name)().merges_inside:
            return f"{label}{written} + inner{f' {inside}' if inside else ''}"
        return label + written

    def make(self, retain_ratio: float | None = None) -> Method:
        """Make the method.

        Args:
            retain_ratio: the budget, unless it is among the settings; None: the method's default.

        Raises:
            SettingsError: a setting is out of its range, the budget cannot be met, or the method does not
                work with or without inner stages as chosen.
        """
        if self.name == FULL:
            return Method(retain_ratio=1, **self.settings)
        budget = {} if retain_ratio is None else {"retain_ratio": retain_ratio}
        method = get_method(self.name, **{**budget, **self.settings})
        if self.inner is None:
            return method
        if not self.inner:
            return method.without_inner()
        if method.merges_inside and isinstance(method, method_class("holitom")):  # HoliTom's stage is its own
            if self.inner_settings:
                raise SettingsError(
                    f"{self.text}: {self.name} has that inner stage; write its settings as {self.name}[...]"
                )
            return method
        return method.with_inner(get_method("holitom", **self.inner_settings))


def read_method(text: str, settings: Mapping[str, Any] | None = None, inner: bool | None = None) -> Choice:
    """Read one method, written as at the top of this file; `full` keeps every token.

    Args:
        text: name, settings in brackets, `+inner`.
        settings: further settings, by field.
        inner: as `Choice.inner`.

    Raises:
        SettingsError: the text is written otherwise, there is no such method or setting, a setting is given
            twice, a value is out of its range (`inner` too, which may come from JSON), or the method does not
            work with or without inner stages as chosen.
    """
    if not isinstance(text, str):
        raise SettingsError(f"unknown method {text!r}; known: {', '.join((*NAMES, FULL))}")
    match = _WRITTEN.fullmatch(re.sub(r"\s", "", text))
    if match is None:
        raise SettingsError(
            "a method is written as name, name[setting=value,...] or name+inner, and a list of them with "
            f"commas between, not {text!r}"
        )
    name, bracket, plus, inner_bracket = match.groups()
    if name not in (*NAMES, FULL):
        raise SettingsError(f"unknown method {name!r}; known: {', '.join((*NAMES, FULL))}")
    if inner not in (None, True, False):
        raise SettingsError(f"inner must be true or false, got {inner!r}")
    given = _settings(bracket, text)
    for setting, value in (settings or {}).items():
        if setting in given:
            raise SettingsError(f"{setting} is set twice: in {text!r} and beside it")
        given[setting] = value
    wishes = {wish for wish in (True if plus else None, inner) if wish is not None}
    if name == WITHOUT_INNER:
        if "inner_drop" in given:
            raise SettingsError(f"{WITHOUT_INNER} is holitom[inner_drop=none], so {text} sets it twice")
        name, wishes = "holitom", wishes | {False}
    if len(wishes) > 1:
        raise SettingsError(f"{text!r} is asked for both with and without an inner stage")
    beyond = [setting for setting in given if setting not in ("reuse", "tower_batch")]
    if name == FULL and (beyond or True in wishes):
        asked = ", ".join(beyond) or "an inner stage"
        raise SettingsError(
            f"full keeps every token, inside the language model too; {asked} needs another method"
        )
    choice = Choice(match[0], name, given, wishes.pop() if wishes else None, _settings(inner_bracket, text))
    choice.make()
    return choice


def read_methods(text: str) -> list[Choice]:
    """Read a list of methods with commas between, each as in `read_method`; `all` stands for every name.

    Raises:
        SettingsError: as `read_method`.
    """
    found = {}
    for part in re.split(r",(?![^\[]*\])", re.sub(r"\s", "", text)):
        for name in NAMES if part == "all" else (part,):
            found[name] = read_method(name)
    return list(found.values())


def _fields(name: str) -> Mapping[str, Any]:
    known: Mapping[str, Any] = method_class(name).__dataclass_fields__
    return known


def _settings(text: str | None, whole: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in re.split(r",(?![^(]*\))", text) if text else []:
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise SettingsError(f"settings are written as setting=value, not {part!r} in {whole!r}")
        if name in found:
            raise SettingsError(f"{name} is set twice in {whole!r}")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # such as budget=exact
