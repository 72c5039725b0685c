"""One server for all tests, and the transformers path that its answers are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.serving import RETAIN, Server, Transformers, serving

from holitom.bundled import DEMO_VIDEO


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The bundled model at `RETAIN` with reuse, compiled as `vllm serve` compiles by default."""
    with serving({"retain_ratio": RETAIN, "reuse": True}) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600, max_retries=0)


@pytest.fixture(scope="session")
def demo() -> bytes:
    return DEMO_VIDEO.read_bytes()


@pytest.fixture(scope="session")
def transformers_path() -> Transformers:
    return Transformers()


@pytest.fixture(scope="session")
def transformers_reusing(transformers_path: Transformers) -> Transformers:
    """The same model as the server's runs it."""
    return transformers_path.with_reuse()
