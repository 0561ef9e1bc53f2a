"""Tests of the connection to Ray; tests/integration uses real clusters."""

from __future__ import annotations

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
