"""What holitom relies on in transformers, and what of it has another name from version to version.

Up to 5.23 the forwards of language models, decoder layers and attentions take their cache as
`past_key_values`; from 5.24 on they take it as `cache`, and accept the old name with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import nn

from holitom.errors import InterfaceError

TESTED = "5.19 to 5.24"
CACHE_NAMES = ("cache", "past_key_values")


def cache_name(module: nn.Module) -> str:
    """The argument of `module`'s forward that takes the cache: "cache" or "past_key_values".

    Raises:
        InterfaceError: its forward takes neither by name.
    """
    parameters = signature(module.forward).parameters
    for name in CACHE_NAMES:
        if name in parameters:
            return name
    raise interface_error(
        f"the forward of {type(module).__name__} takes no cache by the name of {' or '.join(CACHE_NAMES)}"
    )


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, under whichever name; None where there is none."""
    return next((arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None), None)


def interface_error(found: str) -> InterfaceError:
    """The error that says how the installed transformers is built otherwise; see `InterfaceError.of`."""
    return InterfaceError.of("transformers", TESTED, found)
