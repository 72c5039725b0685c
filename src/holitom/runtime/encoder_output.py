"""Put an `Encoded` into the result of a model's video encoder, and tell whether its features were changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

FIELD = "holitom"
"""Name of the field of an encoder's result that holds its `Encoded`."""

Features = list[tuple[Tensor, int | None]]
"""The tensors in `pooler_output`, each with the number of writes to it; None for a tensor of
`torch.inference_mode`, whose writes are not counted."""


def features_of(output: Any) -> Features:
    """List the features in an encoder's `output`: one tensor, or those of a sequence."""
    found = output.pooler_output
    return [(each, _writes(each)) for each in ([found] if isinstance(found, Tensor) else found)]


def unchanged(features: Features, output: Any) -> bool:
    """Whether the features in an encoder's `output` are `features`, which the encoder returned.

    Copies are compared by their values, which takes a device synchronisation for each. Other numbers or
    shapes are those of rows that `generate` repeats, or are checked with the prompt's placeholders.
    """
    now = features_of(output)
    if len(now) != len(features):
        return True
    for (own, writes), (given, _) in zip(features, now, strict=True):
        if given is own:
            if writes != _writes(own):
                return False
        elif given.shape == own.shape and not torch.allclose(
            own.to(given), given, rtol=0, atol=0, equal_nan=True
        ):
            return False
    return True


def _writes(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def carrying(output: Any, encoded: Any) -> Any:
    """Return the encoder's `output` with `encoded` as one more field.

    Code that rebuilds a model's arguments from their parts (accelerate's `send_to_device`, pytrees,
    `dataclasses.replace`) keeps a field. It would lose an attribute that was set on the object.
    """
    return _rebuilt(type(output), {**_values(output), FIELD: encoded})


def _values(output: Any) -> dict[str, Any]:
    return {each.name: getattr(output, each.name) for each in fields(output)}


def _rebuilt(kind: Any, values: dict[str, Any]) -> Any:
    """Make an encoder's output of class `kind`; `values`: its fields by name and, under `FIELD`, an `Encoded`
    or None."""
    if values[FIELD] is not None:
        return _with_field(kind)(**values)
    return kind(**{name: value for name, value in values.items() if name != FIELD})


@cache
def _with_field(kind: Any) -> Any:
    """Make the class of encoder outputs that has the fields of `kind` and one for an `Encoded`."""
    if any(each.name == FIELD for each in fields(kind)):
        return kind

    def reduce(self: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuilt, (kind, _values(self))

    own = [(FIELD, Any, field(default=None, repr=False))]
    made = make_dataclass(kind.__name__, own, bases=(kind,), namespace={"__reduce__": reduce})
    made.__module__ = __name__
    return made
