"""The precision that merging computes in: that of the tensors it is given."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Computes on `device` in the precision of the operands, also inside `torch.autocast`.

    Autocast halves the precision of products whatever dtype the operands have, so clustering would run in
    another precision than it was written for.
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        off: AbstractContextManager[None] = torch.autocast(kind, enabled=False)
        return off
    return nullcontext()
