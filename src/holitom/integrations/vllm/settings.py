"""Read the `holitom` entry of a served model's config: a method and its settings."""

from __future__ import annotations

from dataclasses import fields, replace
from difflib import SequenceMatcher
from typing import Any

from holitom.contract import Reuse
from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.methods.choose import read_method


def method_of(hf_config: Any) -> Method | None:
    """The method that `hf_config.holitom` names; None without such an entry.

    The entry has the method's settings, and `method` where the method is not "holitom", in the form that
    `holitom.methods.choose` reads:

        {"retain_ratio": 0.1}
        {"method": "visionzip", "retain_ratio": 0.25}
        {"retain_ratio": 0.1, "reuse": true}
        {"retain_ratio": 0.1, "reuse": {"threshold": 8, "reach": 4}}

    A paged KV cache rules out stages inside the language model, so HoliTom and HoliTom+ are made without
    theirs, and HoliTom with `budget="exact"`.

    Raises:
        SettingsError: a setting is wrong, the method merges inside the language model, or its number of
            tokens depends on the video's content.
    """
    entry = getattr(hf_config, "holitom", None)
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise SettingsError(f'holitom must be settings such as {{"retain_ratio": 0.1}}, got {entry!r}')
    settings: dict[str, Any] = dict(entry)
    text, inner = settings.pop("method", "holitom"), settings.pop("inner", None)
    if isinstance(settings.get("reuse"), dict):
        settings["reuse"] = _reuse(settings["reuse"])
    choice = read_method(text, settings, inner)
    if choice.name == "holitom":
        choice = replace(choice, settings={"budget": "exact", **choice.settings})
    if (
        choice.name in ("holitom", "holitom-plus")
        and choice.inner is None
        and "inner_drop" not in choice.settings
    ):
        choice = replace(choice, inner=False)
    method = choice.make()
    if method.inner(hf_config.get_text_config().num_hidden_layers):
        raise SettingsError(
            f"{text} with these settings merges inside the language model, but all layers of a sequence have "
            'one length in a paged KV cache; set "inner": false to merge before it alone, or take a method '
            "that does"
        )
    if method.tower_batch is not None:
        raise SettingsError(
            "tower_batch is for transformers' towers; vLLM has batches of its own; leave tower_batch out"
        )
    if method.frame_merging:
        raise SettingsError(
            "merging frames in the vision tower is for transformers' towers, not vLLM's; leave in_tower out"
        )
    # A method that refuses its settings for every video refuses them for this one, longer than any.
    method.merged_count(2**14, 2**8)
    return method


def check_spelling(hf_config: Any) -> None:
    """Refuse a config without a `holitom` entry that has one by another name, or in another place.

    vLLM takes any name in `--hf-overrides`, so such an entry would lead to full tokens without an error.

    Raises:
        SettingsError: there is such an entry.
    """
    for name, value in vars(hf_config).items():
        plain = name.lower().replace("_", "").replace("-", "")
        if name != "holitom" and SequenceMatcher(None, plain, "holitom").ratio() > 0.8:
            raise SettingsError(f'--hf-overrides has an entry {name!r}; the name of the entry is "holitom"')
        if getattr(value, "holitom", None) is not None or (isinstance(value, dict) and "holitom" in value):
            raise SettingsError(
                f'--hf-overrides has "holitom" inside {name!r}; it belongs beside it: '
                '{"holitom": {"retain_ratio": 0.1}}'
            )


def _reuse(given: dict[str, Any]) -> Reuse:
    """Read settings of reuse from JSON, whose lists become tuples."""
    known = [field.name for field in fields(Reuse)]
    for name in given:
        if name not in known:
            raise SettingsError(f"reuse has no setting {name!r}; known: {', '.join(known)}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return Reuse(**values)
