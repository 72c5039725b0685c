"""Cores are shared while a file is decoded; afterwards the process has its own number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from holitom.cores import Cores


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_the_tower_takes_all_cores_once_the_decoder_is_done() -> None:
    busy = [True]
    cores = Cores.of(torch.device("cpu"))
    assert (cores.decoder, cores.tower) == (2, 2)
    with cores.shared(lambda: busy[0]) as ask:
        assert torch.get_num_threads() == 2
        busy[0] = False
        assert torch.get_num_threads() == 2
        ask()
        assert torch.get_num_threads() == 4
    assert torch.get_num_threads() == 4


def test_one_core_is_shared() -> None:
    torch.set_num_threads(1)
    assert Cores.of(torch.device("cpu")) == Cores(1, 1)


def test_a_tower_elsewhere_changes_no_threads() -> None:
    cores = Cores.of(torch.device("meta"))
    assert cores.decoder is None
    with cores.shared(lambda: True) as ask:
        ask()
        assert torch.get_num_threads() == 4


def test_calls_that_overlap_leave_what_the_first_found() -> None:
    one = Cores.of(torch.device("cpu")).shared(lambda: True)
    one.__enter__()
    inner = Cores.of(torch.device("cpu"))
    assert inner.tower == 2
    other = inner.shared(lambda: True)
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert torch.get_num_threads() == 4


def test_an_error_restores_the_threads() -> None:
    with pytest.raises(KeyboardInterrupt), Cores.of(torch.device("cpu")).shared(lambda: True):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 4
