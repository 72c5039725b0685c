"""The `holitom` entry of a served model's config: which method, with which settings."""

from __future__ import annotations

from typing import Any

from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.methods.registry import get_method


def method_of(hf_config: Any) -> Method | None:
    """The method that `hf_config.holitom` names, None where there is no such entry.

    The entry holds the method's own settings, and `method` for its name where that is not "holitom":
    `{"retain_ratio": 0.1}`, `{"method": "visionzip", "retain_ratio": 0.25}`. HoliTom itself always merges to
    `budget="exact"` and before the language model only.

    Raises:
        SettingsError: a setting is wrong, the method merges inside the language model, or how many tokens it
            keeps depends on what the video shows.
    """
    entry = getattr(hf_config, "holitom", None)
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise SettingsError(f'holitom must be settings such as {{"retain_ratio": 0.1}}, got {entry!r}')
    settings: dict[str, Any] = dict(entry)
    name = settings.pop("method", "holitom")
    if name == "holitom":
        settings = {"budget": "exact", "inner_drop": None, **settings}
    method = get_method(str(name), **settings)
    if method.inner(hf_config.get_text_config().num_hidden_layers):
        raise SettingsError(
            f"{name} with these settings merges inside the language model, but all layers of a sequence have "
            "one length in a paged KV cache; leave inner_layer and inner_drop out, or take a method that "
            "merges before the language model"
        )
    # Whatever a method refuses for its settings' sake it refuses for this video, longer than any.
    method.merged_count(2**14, 2**8)
    return method
