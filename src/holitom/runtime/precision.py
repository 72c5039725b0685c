"""The precision of merging, which is that of its tensors also inside `torch.autocast`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Switch autocast off on `device`, so that operations compute in the precision of their operands.

    Autocast would compute products of float32 tensors in half precision, which changes clusters and rankings.
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        off: AbstractContextManager[None] = torch.autocast(kind, enabled=False)
        return off
    return nullcontext()
