"""The one door between device and host.

Every device-to-host copy of the library's mathematics goes through `to_host`: what passes here is
all that can stall a GPU stream, so it can be counted (`holitom.bench.overhead`) and read off a page.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


def to_host(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Copy `tensor` to the host and wait for it: one device synchronisation.

    It copies on the CPU too, so that a count made there is the count on a GPU.
    """
    return tensor.detach().to("cpu", copy=True).numpy()


_FETCHED: Any = WeakTensorKeyDictionary()


def host_values(*tensors: Tensor) -> list[Tensor]:
    """Tensors of whole numbers or booleans on the host, fetched from the device in one piece.

    One device synchronisation, or none where all are known: what was fetched of a tensor is remembered for as
    long as the tensor lives and nothing is written to it. What lies on the host already is returned as it is.
    """
    known = {id(tensor): _known(tensor) for tensor in tensors}
    missing = [tensor for tensor in tensors if known[id(tensor)] is None]
    if missing:
        device = missing[0].device
        packed = torch.cat([tensor.detach().flatten().to(device, torch.int64) for tensor in missing])
        parts = torch.split(packed.to("cpu"), [tensor.numel() for tensor in missing])
        for tensor, part in zip(missing, parts, strict=True):
            fetched = part.view(tensor.shape).to(tensor.dtype)
            known[id(tensor)] = fetched
            if not tensor.is_inference():  # writing to such a tensor would not be noticed
                _FETCHED[tensor] = (tensor._version, fetched)
    return [values for tensor in tensors if (values := known[id(tensor)]) is not None]


def _known(tensor: Tensor) -> Tensor | None:
    """What the host knows of a tensor."""
    if tensor.device.type in ("cpu", "meta"):
        return tensor.detach()
    version, values = _FETCHED.get(tensor, (None, None))
    return values if not tensor.is_inference() and version == tensor._version else None


def to_device(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Send a small host array to `device` without waiting for the device."""
    return sent(torch.from_numpy(values), device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A small host tensor on `device`, without waiting for the device.

    CUDA stages pageable memory before the call returns, so `values` may be freed at once.
    """
    return values.to(device, non_blocking=device.type != "mps")  # which may read them later
