"""Tests of the connection to Ray; tests/integration uses real clusters."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from albef.cluster import cluster
from albef.serving.server import free_ports
from tests.errors import refuses


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_missing_cluster_is_named_at_once(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with refuses(ConnectionError, address, "RAY_ADDRESS"), cluster(1):
        pass


def test_other_errors_of_a_local_start_are_not_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", Mock(side_effect=PermissionError("/tmp/ray")))
    with refuses(PermissionError, "/tmp/ray"), cluster(1):
        pass
