"""Count the device synchronisations that attaching a method adds to the stock model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from holitom.bench.second_device import SecondDevice, Waits
from holitom.methods.base import Method

STEPS = 4
"""Number of decoding steps that are counted."""


@dataclass(frozen=True)
class Added:
    """Device synchronisations that a method adds to the stock model's.

    Attributes:
        prefill: synchronisations in `generate` up to the first token; negative where the method saves some.
        step: synchronisations in one decoding step, the mean of `STEPS`.
        places: synchronisations in the prefill, counted by kind and line of code.
    """

    prefill: int
    step: float
    places: Counter[str]


def added_synchronisations(model: Any, method: Method, inputs: Mapping[str, Any], **settings: Any) -> Added:
    """Count added synchronisations on `second_device.SecondDevice`.

    Args:
        model: a model on the host, without an attached method; a copy of it runs.
        method: the method.
        inputs: the processor's output.
        settings: further arguments of `generate`.
    """
    with SecondDevice() as device:
        moved, given = device.model(model), device.inputs(inputs)

        def generate(tokens: int) -> Waits:
            with device.counting() as waits, torch.no_grad():
                moved.generate(
                    **given, **settings, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens
                )
            return waits

        stock = generate(1), generate(1 + STEPS)
        with method(moved):
            attached = generate(1), generate(1 + STEPS)
    first, whole = (own.total - other.total for own, other in zip(attached, stock, strict=True))
    return Added(first, (whole - first) / STEPS, attached[0].places - stock[0].places)
