"""Names and behaviour that holitom relies on in transformers, some of which differ between versions.

Up to 5.23 the forwards of language models, decoder layers and attentions take their cache as
`past_key_values`; from 5.24 on they take it as `cache`, and accept the old name with a warning.
`check_interface` checks all names when a method is attached, so that a changed name raises an error there
instead of a wrong answer later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask, create_recurrent_attention_mask

from holitom.errors import InterfaceError

TESTED = "5.19 to 5.24"
CACHE_NAMES = ("cache", "past_key_values")


def cache_name(module: nn.Module) -> str:
    """Name of the argument of `module`'s forward that takes the cache: "cache" or "past_key_values".

    Raises:
        InterfaceError: its forward takes neither.
    """
    taken = _taken(module, "forward")
    for name in CACHE_NAMES:
        if name in taken:
            return name
    raise interface_error(
        f"the forward of {type(module).__name__} takes no cache by the name of {' or '.join(CACHE_NAMES)}"
    )


@cache
def mask_cache_name(create: Callable[..., Any]) -> str:
    """Name of the argument of transformers' mask function `create` that takes the cache.

    Raises:
        InterfaceError: it takes no cache, or lacks another argument that it is given.
    """
    taken = signature(create).parameters
    names = ["config", "inputs_embeds", "attention_mask"]
    if create is create_causal_mask:
        names += ["position_ids", "layer_idx"]
    missing = [name for name in names if name not in taken]
    for name in CACHE_NAMES:
        if name in taken and not missing:
            return name
    lacks = " and no ".join(missing) or f"cache by the name of {' or '.join(CACHE_NAMES)}"
    raise interface_error(f"{create.__name__} takes no {lacks}")


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, under either name; None where there is none."""
    return next((arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None), None)


def check_interface(adapter: Any) -> None:
    """Check the arguments and modules that attaching relies on, and the behaviour of a cache.

    Args:
        adapter: the model's `Adapter` (untyped here, since its module imports this one).

    Raises:
        InterfaceError: an argument or module is missing; the message names it and the tested versions.
    """
    video = (adapter.pixels_name, *adapter.encoder_arguments)
    _takes(adapter.model, ("input_ids", "labels", *video))
    _takes(adapter.trunk, ("input_ids", "inputs_embeds", "mm_encoder_outputs", *video))
    _takes(adapter.trunk, video, adapter.encoder)
    _takes(adapter.vision_attention, adapter.vision_arguments)
    language = ("inputs_embeds", "attention_mask", "position_ids", "use_cache", *adapter.language_arguments)
    _takes(adapter.language_model, language)
    cache_name(adapter.language_model)
    for index, layer in enumerate(adapter.layers):
        _takes(layer, ("hidden_states", "attention_mask", "position_ids", "position_embeddings"))
        cache_name(layer)
        _has(layer, ("input_layernorm",))
        if adapter.attends(index):
            attention: Any = layer.self_attn
            _takes(attention, ("hidden_states", "position_embeddings"))
            cache_name(attention)
            _has(attention, ("head_dim", "scaling"))
    for create in (create_causal_mask, create_recurrent_attention_mask):
        mask_cache_name(create)
    _check_cache()


def _takes(module: nn.Module, names: Iterable[str], method: str = "forward") -> None:
    """Raise `InterfaceError` unless `method` of `module` takes arguments by these `names`."""
    taken = _taken(module, method)
    missing = [name for name in names if name not in taken]
    if missing:
        raise interface_error(f"{method} of {type(module).__name__} takes no {' and no '.join(missing)}")


def _taken(module: nn.Module, method: str) -> set[str]:
    """Names of a method's arguments; of a method that takes `*args, **kwargs` alone, those of its base's."""
    own: Any = getattr(module, method, None)
    methods = [own, *(vars(kind).get(method) for kind in type(module).__mro__)]
    for each in filter(callable, methods):
        parameters = signature(each).parameters
        kinds = {parameter.kind for name, parameter in parameters.items() if name != "self"}
        if kinds != {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
            return set(parameters)
    return set()


def _has(module: nn.Module, names: Iterable[str]) -> None:
    """Raise `InterfaceError` unless `module` has attributes by these `names`."""
    for name in names:
        if not hasattr(module, name):
            raise interface_error(f"{type(module).__name__} has no {name}")


def _check_cache() -> None:
    """Raise `InterfaceError` unless a cache holds the columns of each layer in `layers` and counts them."""
    own: Any = DynamicCache()
    try:
        for layer, columns in enumerate((3, 2)):
            states = torch.zeros(1, 1, columns, 1)
            own.update(states, states, layer)
        held = [layer.keys.shape[2] for layer in own.layers]
        known = (held, own.get_seq_length(), any(own.is_sliding)) == ([3, 2], 3, False)
    except (AttributeError, TypeError):
        known = False
    if not known:
        raise interface_error("DynamicCache does not hold each layer's own columns in `layers`")


def interface_error(found: str) -> InterfaceError:
    """Make the error for an installed transformers that differs from the tested ones; see
    `InterfaceError.of`."""
    return InterfaceError.of("transformers", TESTED, found)
