"""Attacks on a real service: none is answered, stops a process, or disturbs other clients."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest

from albef.serving.client import Client
from albef.serving.service import Service
from tests.integration.serving.attacks import GRPC, HTTP, RAW
from tests.integration.serving.test_lifecycle import family


def processes(service: Service) -> set[int]:
    return {*family(service.server.pid or 0), *(part.pid for part in service._parts.values())}


@pytest.fixture(autouse=True)
def unharmed(service: Service, model) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """Check that all processes are those from before, and that a client is answered as before."""
    image = model.folder / "images" / "5.png"
    with Client(service.grpc_url, retries=0, timeout=20) as client:
        before, expected = processes(service), client.entail(image, "red")
        yield
        assert client.entail(image, "red") == expected
        assert client.ready()
    assert processes(service) == before
    assert not (service.server.folder / "evil").exists()  # Triton's working directory


@pytest.mark.parametrize("name", GRPC)
def test_grpc(service: Service, name: str) -> None:
    attack, status = GRPC[name]
    assert attack(service) == status


@pytest.mark.parametrize("name", HTTP)
def test_http(service: Service, name: str) -> None:
    attack, statuses = HTTP[name]
    assert attack(service) in statuses


@pytest.mark.parametrize("name", RAW)
def test_bytes(service: Service, name: str) -> None:
    RAW[name](service)


def test_the_secrets_are_in_no_command_line_and_no_environment(service: Service) -> None:
    assert len(service._key) == 64
    for pid in processes(service):
        process = psutil.Process(pid)
        assert service._key not in " ".join([*process.cmdline(), *process.environ().values()])
    log = service.server.log
    assert log is not None
    assert service._key not in log.read_text(errors="replace")
    assert os.stat(service.server.folder).st_mode & 0o077 == 0


def test_the_suite_is_large_enough() -> None:
    assert len(GRPC) + len(HTTP) + len(RAW) >= 150
