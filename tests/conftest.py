"""Fixtures for tests that need a live model; helpers are in `support`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # `support`, for every test that imports it

from support.tiny import Tiny, build_model, build_processor


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where models run: cpu, or cuda (`make test-gpu`)")


def pytest_configure(config: pytest.Config) -> None:
    """Let tests make models and tensors on `--device`; convolutions keep float32's precision there."""
    device = config.getoption("--device")
    if device != "cpu":
        torch.set_default_device(device)
        torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def processor() -> Any:
    return build_processor()


@pytest.fixture(scope="session")
def tiny(processor: Any) -> Tiny:
    """SDPA, float32."""
    return Tiny(build_model(), processor)


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def tiny_both(request: pytest.FixtureRequest, processor: Any) -> Tiny:
    """One model for each attention."""
    return Tiny(build_model(request.param), processor)
