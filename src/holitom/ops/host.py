"""The one door between device and host.

Every device-to-host copy of the library's mathematics goes through `to_host`: what passes here is
all that can stall a GPU stream, so it can be counted (`holitom.bench.overhead`) and read off a page.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_host(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Copy `tensor` to the host and wait for it: one device synchronisation.

    It copies on the CPU too, so that a count made there is the count on a GPU.
    """
    return tensor.detach().to("cpu", copy=True).numpy()


def to_device(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Send a small host array to `device` without waiting for the device.

    CUDA stages pageable memory before the call returns, so `values` may be freed at once.
    """
    return torch.from_numpy(values).to(device, non_blocking=device.type == "cuda")
