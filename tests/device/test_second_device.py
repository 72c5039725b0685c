"""The pretended device itself: where it refuses, and what it counts, as a CUDA device would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from holitom.bench.second_device import SecondDevice

pytestmark = pytest.mark.device


@pytest.fixture
def device() -> Iterator[SecondDevice]:
    with SecondDevice() as device:
        yield device


HOST = torch.arange(6)


@pytest.fixture
def values(device: SecondDevice) -> Tensor:
    return device.tensor(HOST)


def test_tensors_say_where_they_are(device: SecondDevice, values: Tensor) -> None:
    assert values.device == device.device != HOST.device
    assert (values + 1).device == device.device
    assert torch.zeros(3, device=device.device).device == device.device
    assert torch.tensor([1, 2], device=device.device).device == device.device
    assert torch.zeros_like(values).device == device.device
    assert values.cpu().device == HOST.device
    assert HOST.to(device.device).device == device.device


def test_results_are_those_of_the_cpu(values: Tensor) -> None:
    got = (values.view(2, 3).float() @ values.view(3, 2).float()).softmax(0)
    assert torch.equal(got.cpu(), (HOST.view(2, 3).float() @ HOST.view(3, 2).float()).softmax(0))


def test_what_is_written_through_a_view_is_written(device: SecondDevice, values: Tensor) -> None:
    values[2:4] = 7
    values.view(2, 3)[1] += 10
    values[values > 15] = -1
    assert values.tolist() == [0, 1, 7, -1, 14, 15]


MIXED: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda values: values + HOST,
    "concatenation": lambda values: torch.cat([values, HOST]),
    "a host scalar in a stack": lambda values: torch.stack([values[0], torch.tensor(1)]),
    "selection": lambda values: values.index_select(0, HOST),
    "gathering": lambda values: values.gather(0, HOST),
    "a device index of a host tensor": lambda values: HOST[values],
    "writing": lambda values: values.index_copy(0, values, HOST),
    "a matrix product": lambda values: values.float() @ HOST.float(),
    "where": lambda values: torch.where(values > 1, values, HOST),
    "numpy": lambda values: values.numpy(),
}


@pytest.mark.parametrize("what", MIXED)
def test_host_and_device_do_not_mix(values: Tensor, what: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"same device|numpy"):
        MIXED[what](values)


def test_host_scalars_mix_in_elementwise_arithmetic(values: Tensor) -> None:
    assert (values * torch.tensor(2) + 1).tolist() == (HOST * 2 + 1).tolist()
    assert values.masked_fill(values > 3, torch.tensor(0)).tolist() == [0, 1, 2, 3, 0, 0]


WAITS: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "item": (1, lambda values: values[0].item()),
    "int": (1, lambda values: int(values[0])),
    "float": (1, lambda values: float(values[0])),
    "bool": (1, lambda values: bool(values[0])),
    "if": (1, lambda values: 1 if (values > 3).any() else 0),
    "as an index": (1, lambda values: HOST.tolist()[values[1]]),
    "as a bound": (1, lambda values: values[: values[1]]),
    "tolist": (1, lambda values: values.tolist()),
    "cpu": (1, lambda values: values.cpu()),
    "cpu, non-blocking": (1, lambda values: values.to("cpu", non_blocking=True)),
    "copied to the host": (1, lambda values: torch.zeros(6).copy_(values)),
    "nonzero": (1, lambda values: values.nonzero()),
    "masked_select": (1, lambda values: values.masked_select(values > 1)),
    "by a mask": (1, lambda values: values[values > 1]),
    "written by a mask": (1, lambda values: values.index_put_((values > 3,), values[:2].clone())),
    "equal": (1, lambda values: torch.equal(values, values + 1)),
    "unique": (1, lambda values: values.unique()),
    "bincount": (1, lambda values: values.bincount()),
    "repeats": (1, lambda values: values.repeat_interleave(values)),
    "torch.tensor": (1, lambda values: torch.tensor([1, 2], device=values.device)),
    "torch.tensor of device values": (3, lambda values: torch.tensor([*values[:2]], device=values.device)),
    "new_tensor": (1, lambda values: values.new_tensor([1, 2])),
    "sent": (1, lambda values: HOST.to(values.device)),
    "host indices": (1, lambda values: values[HOST]),
    "sent, non-blocking": (0, lambda values: HOST.to(values.device, non_blocking=True)),
    "copied from the host, non-blocking": (0, lambda values: values.copy_(HOST, non_blocking=True)),
    "repeats of a known number": (0, lambda values: values.repeat_interleave(values, output_size=15)),
    "filled by a mask": (0, lambda values: values.masked_fill(values > 1, 0)),
    "set by a mask": (0, lambda values: values.__setitem__(values > 1, 0)),
    "arithmetic": (0, lambda values: (values + 1).cumsum(0).sort(descending=True)),
    "made there": (0, lambda values: torch.arange(4, device=values.device) + values.new_zeros(4)),
    "shape": (0, lambda values: len(values) + values.shape[0] + values.numel()),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_makes_the_host_wait_is_counted(device: SecondDevice, values: Tensor, what: str) -> None:
    expected, call = WAITS[what]
    with device.counting() as waits:
        call(values)
    assert waits.total == expected, waits.kinds


def test_inference_mode_is_no_different(device: SecondDevice, values: Tensor) -> None:
    with torch.inference_mode(), device.counting() as waits:
        there = HOST.to(device.device)
        assert (there + values).to("cpu").tolist() == (2 * HOST).tolist()
        assert there[1].item() == 1
        assert bool(there[1])
    assert waits.total == 4
    assert there.device == device.device


def test_a_count_names_the_line_that_asked(device: SecondDevice, values: Tensor) -> None:
    with device.counting() as waits:
        values.sum().item()
    (place,) = waits.places
    assert "test_second_device.py" in place
    values.sum().item()
    assert waits.total == 1, "counting ends with its block"


def test_outside_its_block_nothing_is_changed() -> None:
    with SecondDevice() as device:
        values = device.tensor(HOST)
    assert torch.equal(HOST + 1, torch.arange(1, 7))
    assert torch.tensor([1]).device.type == "cpu"
    assert values.device == device.device


def test_checkpointing_on_the_host_goes_on_working(device: SecondDevice) -> None:
    """It asks every registered backend for the types of its autocast."""
    weight = torch.ones(2, requires_grad=True)
    torch.utils.checkpoint.checkpoint(torch.square, weight, use_reentrant=False).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((2,), 2.0))
