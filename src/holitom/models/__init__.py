"""Model families: the only place that knows how each one is built. One row a family."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from torch import nn

from holitom.errors import UnsupportedModelError

if TYPE_CHECKING:
    from holitom.models.base import Adapter

FAMILIES = {
    "LlavaOnevisionForConditionalGeneration": "holitom.models.llava_onevision:LlavaOnevision",
}


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of `model`, by the name of its class or of a class that it derives from.

    Raises:
        UnsupportedModelError: no family has that class; the message names those that are supported.
    """
    for base in type(model).__mro__:
        if base.__name__ in FAMILIES:
            module, _, name = FAMILIES[base.__name__].partition(":")
            adapter: Adapter = getattr(import_module(module), name)(model)
            return adapter
    raise UnsupportedModelError(
        f"no adapter for a model of class {type(model).__name__}; supported: {', '.join(sorted(FAMILIES))}"
    )
