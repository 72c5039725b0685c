"""Methods as they are written on a command line: `holitom[knn=5,inner_drop=none],visionzip+inner,fastv`."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.methods.registry import METHODS, get_method, method_class

WITHOUT_INNER = "holitom-outer"  # the paper's "w/o M"
NAMES = ("holitom", WITHOUT_INNER, *(name for name in METHODS if name != "holitom"))

_WRITTEN = re.compile(r"([\w-]+)(?:\[([^\[\]]*)\])?(?:(\+inner)(?:\[([^\[\]]*)\])?)?")
_WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class NamedMethod:
    """One method with some of its settings, at whatever budget.

    Attributes:
        text: as it was written.
        method: its name in the registry.
        settings: those that were written.
        inner: settings of the `HoliTom` whose inner stage is added; None where none is.
    """

    text: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    inner: dict[str, Any] | None = None

    @property
    def retain_ratio(self) -> float | None:
        """The budget, where it was written as a setting."""
        ratio: float | None = self.settings.get("retain_ratio")
        return ratio

    @property
    def label(self) -> str:
        """For tables: `HoliTom w/o M`, `VisionZip + inner`, `HoliTom [knn=5]`."""
        name = method_class(self.method).__name__
        outer, plus, inner = self.text.partition("+inner")
        if outer.startswith(WITHOUT_INNER):
            name += " w/o M"
        bracket = outer.find("[")
        name += f" {outer[bracket:]}" if bracket >= 0 else ""
        return f"{name} + inner{f' {inner}' if inner else ''}" if plus else name

    def at(self, retain_ratio: float) -> Method:
        """The method at one budget (its own, where it was written as a setting).

        Raises:
            SettingsError: the method cannot meet it.
        """
        return self._make({"retain_ratio": retain_ratio, **self.settings})

    def check(self) -> None:
        """Make it with the settings that were written and no others.

        Raises:
            SettingsError: there is no such method or setting, or a value is out of its range.
        """
        self._make(self.settings)

    def _make(self, settings: dict[str, Any]) -> Method:
        outer = get_method(self.method, **settings)
        if self.inner is None:
            return outer
        return outer.with_inner(get_method("holitom", **self.inner))


def named_methods(text: str) -> list[NamedMethod]:
    """The methods in `text`: names with commas between them; `all` stands for every name.

    A name may carry settings, `name[setting=value,...]`: any field of the method's class, as a number, a
    name, true, false, none, or numbers in parentheses. `holitom-outer` is HoliTom without its inner stage.
    `name+inner` adds HoliTom's inner stage, `name+inner[setting=value,...]` that of a HoliTom set so.

    Raises:
        SettingsError: something is not written so, there is no such method or setting, or a value is out of
            its range.
    """
    found = {}
    for part in re.split(r",(?![^\[]*\])", re.sub(r"\s", "", text)):
        for name in NAMES if part == "all" else (part,):
            found[name] = _read(name)
            found[name].check()
    return list(found.values())


def _read(text: str) -> NamedMethod:
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise SettingsError(
            "methods are written as name, name[setting=value,...] or name+inner, with commas between, "
            f"not {text!r}"
        )
    name, settings, plus, inner = match.groups()
    if name not in NAMES:
        raise SettingsError(f"unknown method {name!r}; known: {', '.join(NAMES)}; or all")
    written = _settings(settings, text)
    if name == WITHOUT_INNER:
        if "inner_drop" in written:
            raise SettingsError(f"{WITHOUT_INNER} is holitom[inner_drop=none], so {text} sets it twice")
        name, written = "holitom", {**written, "inner_drop": None}
    if plus and method_class(name).merge is Method.merge:
        raise SettingsError(
            f"{text}: {name} works inside the language model alone; +inner is for methods that merge before "
            "it"
        )
    return NamedMethod(text, name, written, _settings(inner, text) if plus else None)


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
        return text  # a name
