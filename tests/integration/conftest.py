from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from albef.serving.client import Client
from albef.serving.runtime import Runtime, ensure
from albef.serving.server import TritonServer
from tests.served import Served


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return ensure(uv=os.environ.get("UV"))


@pytest.fixture(scope="session")
def server(model: Served, runtime: Runtime) -> Iterator[TritonServer]:
    with TritonServer(model.repository, runtime=runtime) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.grpc_url) as connected:
        yield connected
