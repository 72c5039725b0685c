"""What crosses between device and host: in one piece, and once."""

from __future__ import annotations

import pytest
import torch

from holitom.bench.second_device import SecondDevice
from holitom.ops.host import host_values, sent, to_device, to_host

GRID, IDS, MASK = torch.tensor([[2, 4, 6]]), torch.arange(5), torch.tensor([True, False])


def test_several_tensors_are_fetched_in_one_piece_and_keep_shape_and_dtype() -> None:
    with SecondDevice() as device:
        there = [device.tensor(host) for host in (GRID, IDS.int(), MASK)]
        with device.counting() as waits:
            fetched = host_values(*there)
        assert waits.total == 1
        for got, host in zip(fetched, (GRID, IDS.int(), MASK), strict=True):
            assert got.device.type == "cpu"
            assert got.dtype == host.dtype
            assert torch.equal(got, host)


def test_what_is_known_is_not_fetched_again() -> None:
    with SecondDevice() as device:
        grid, ids = device.tensor(GRID), device.tensor(IDS)
        host_values(grid)
        with device.counting() as waits:
            host_values(grid)
            assert waits.total == 0
            fetched = host_values(ids, grid, ids)
        assert waits.total == 1
        assert torch.equal(fetched[0], IDS)
        assert torch.equal(fetched[1], GRID)
        assert torch.equal(fetched[2], IDS)


def test_a_tensor_that_was_written_to_is_copied_to_the_host_again() -> None:
    with SecondDevice() as device:
        grid = device.tensor(GRID)
        host_values(grid)
        grid += 1
        assert torch.equal(host_values(grid)[0], GRID + 1)
        with torch.inference_mode():
            ids = grid.clone()
            assert torch.equal(host_values(ids)[0], GRID + 1)
            ids += 1
            assert torch.equal(host_values(ids)[0], GRID + 2)


def test_what_lies_on_the_host_stays_there() -> None:
    (got,) = host_values(IDS)
    assert got.data_ptr() == IDS.data_ptr()


def test_sending_does_not_wait_and_fetching_waits_once() -> None:
    with SecondDevice() as device:
        with device.counting() as waits:
            there = [sent(IDS, device.device), to_device(IDS.numpy(), device.device)]
        assert waits.total == 0
        with device.counting() as waits:
            back = [to_host(each) for each in there]
        assert waits.total == 2
    assert all((each == IDS.numpy()).all() for each in back)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_on_a_gpu_are_fetched_in_one_piece() -> None:
    grid, ids = GRID.cuda(), IDS.cuda()
    assert torch.equal(host_values(grid, ids)[1], IDS)
