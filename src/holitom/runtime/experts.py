"""Keep the load balancing loss of mixtures of experts right, which counts the router logits of real tokens.

A model with `output_router_logits` masks them with the caller's attention mask, whose columns are not those
of merged tokens. Where a call brings videos, the mask is therefore withheld from the loss, and the router
logits of padding are removed, as the mask would have removed them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from holitom.models.base import Adapter
from holitom.runtime import refusals
from holitom.runtime.call import Call, Kwargs
from holitom.runtime.forward import Forward


def masks_aside(adapter: Adapter, call: Call, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """Move the mask from the model's arguments to `call.mask` where its loss would misread it.

    Returns:
        The arguments that the model gets instead, or None where they stay.
    """
    given = call.arguments
    mask = given.get("attention_mask")
    if not (
        adapter.brings(given) and isinstance(mask, Tensor) and mask.dim() == 2 and _asked(adapter, given)
    ):
        return None
    if call.module is adapter.trunk and not bool(mask.all()):  # it reads its mask for more than the loss
        raise refusals.ROUTER_LOGITS.error()
    call.mask = mask
    return (), {**given, "attention_mask": None}


def _asked(adapter: Adapter, given: Kwargs) -> bool:
    asked = given.get("output_router_logits")
    language: Any = adapter.language_model
    return bool(getattr(language.config, "output_router_logits", False) if asked is None else asked)


def of_real_tokens(output: Any, forward: Forward | None, call: Call) -> None:
    """Remove the router logits of padding from the language model's `output` where the mask was withheld."""
    routed = getattr(output, "router_logits", None)
    if call.mask is None or not routed:
        return
    if forward is None or forward.layout is None:
        real = call.mask.flatten().bool()
        output.router_logits = tuple(each[real.to(each.device)] for each in routed)
        return
    levels, rows = forward.levels, len(forward.layout.lengths)
    feeds = [getattr(layer, "mlp", None) for layer in forward.adapter.layers]
    layers = [index for index, feed in enumerate(feeds) if hasattr(feed, "experts")]
    kept = []
    for layer, each in zip(layers, routed, strict=True):
        mask = levels.masks[levels.at(layer)]
        if mask is not None:
            each = each[mask[:, -(len(each) // rows) :].flatten().to(each.device)]
        kept.append(each)
    output.router_logits = tuple(kept)
