"""How often attaching a method makes the host wait for the device, beyond what the stock model does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from holitom.bench.second_device import SecondDevice, Waits
from holitom.methods.base import Method

STEPS = 4
"""Decoding steps that are counted."""


@dataclass(frozen=True)
class Added:
    """Device synchronisations that a method adds to the stock model's.

    Attributes:
        prefill: in `generate` up to the first token; negative where the method spares the model some.
        step: in one decoding step, the mean of `STEPS`.
        places: of those in the prefill, how often by kind and line of code.
    """

    prefill: int
    step: float
    places: Counter[str]


def added_synchronisations(model: Any, method: Method, inputs: Mapping[str, Any], **settings: Any) -> Added:
    """Count them, on `second_device.SecondDevice`.

    Args:
        model: on the host, with nothing attached; a copy of it is run.
        method: that is attached.
        inputs: what the processor returned.
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
