from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from albef.serving.client import Client
from albef.serving.runtime import Runtime, ensure
from albef.serving.server import TritonServer
from albef.serving.service import Access, Service
from tests.served import Served, copy_endpoints


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return ensure(uv=os.environ.get("UV"))


@pytest.fixture(scope="session")
def service(model: Served, runtime: Runtime) -> Iterator[Service]:
    """All endpoints behind the proxy and the HTTP side."""
    with Service(TritonServer(model.repository, runtime=runtime), Access(http_port=0)) as running:
        yield running


@pytest.fixture(scope="session")
def server(service: Service) -> TritonServer:
    """The Triton server of `service`."""
    return service.server


@pytest.fixture(scope="session")
def retrieval_alone(model: Served) -> Path:
    """The repository with the retrieval endpoint alone."""
    return copy_endpoints(model.repository, model.folder / "alone", "retrieval")


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.grpc_url) as connected:
        yield connected


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path: Path, _empty_store: Path) -> str:
    """Empty MLflow store; MLflow takes seconds to create the tables of each."""
    return f"sqlite:///{shutil.copy(_empty_store, tmp_path / 'mlflow.db')}"
