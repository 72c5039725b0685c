"""Fixtures for tests that need a live model; helpers are in `support`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # `support`, for every test that imports it

from support.tiny import Tiny, build_model, build_processor


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
