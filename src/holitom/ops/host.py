"""Copies between device and host.

Every device-to-host copy in `ops/` and `methods/` goes through `to_host` or `host_values`. A GPU stream
stalls nowhere else, so counting calls of these two counts the device synchronisations
(`holitom.bench.overhead`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

HOST = torch.device("cpu")
"""Device of index arithmetic on the host. It is named because `torch.set_default_device` may name another."""


def to_host(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Copy `tensor` to the host and wait for it: one device synchronisation.

    A tensor on the CPU is copied too, so that a count of synchronisations made there holds on a GPU.
    """
    return tensor.detach().to("cpu", copy=True).numpy()


_FETCHED: Any = WeakTensorKeyDictionary()


def host_values(*tensors: Tensor) -> list[Tensor]:
    """Fetch integer or boolean tensors from the device in one copy.

    This takes one device synchronisation, or none where the host knows the values of all: a tensor's fetched
    values are remembered for as long as the tensor lives and is not written to. A tensor that is on the host
    already is returned as it is.
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
            if not tensor.is_inference():  # an inference tensor has no version, so a write would go unnoticed
                _FETCHED[tensor] = (tensor._version, fetched)
    return [values for tensor in tensors if (values := known[id(tensor)]) is not None]


def _known(tensor: Tensor) -> Tensor | None:
    """The values of `tensor` on the host; None where they have to be fetched."""
    if tensor.device.type in ("cpu", "meta"):
        return tensor.detach()
    version, values = _FETCHED.get(tensor, (None, None))
    return values if not tensor.is_inference() and version == tensor._version else None


def to_device(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy a small host array to `device` without waiting for the device."""
    return sent(torch.from_numpy(values), device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small host tensor to `device` without waiting for the device.

    CUDA stages pageable memory before the call returns, so `values` may be freed at once. MPS may read the
    memory later, so there the copy blocks.
    """
    return values.to(device, non_blocking=device.type != "mps")
