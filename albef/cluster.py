"""Connection to Ray, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

OBJECT_STORE_BYTES = 128 * 2**20
"""Small, since workers exchange little data through Ray."""
_PLACE = re.compile(r"(?:^|//)([^:/]+):(\d+)$")
"""Host and port in an address."""


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Connect to Ray.

    An existing connection is reused. Otherwise connect to the cluster at ``RAY_ADDRESS``, or start a local one on the
    loopback address.

    Args:
        cpus: Minimum number of CPUs of a local cluster. It may exceed the number of cores.

    Raises:
        ConnectionError: If no cluster answers at ``RAY_ADDRESS``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {
        "include_dashboard": False,
        "num_cpus": max(cpus, os.cpu_count() or 1),
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address and (place := _PLACE.search(address)):  # Ray itself would wait for a missing cluster
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        ray.init(address=address or "local", **quiet, **({} if address else local))
    except OSError as error:
        if not address:
            raise
        text = f"{address}: no Ray cluster answers ({error})"
        raise ConnectionError(f"{text}; check RAY_ADDRESS, and set RAY_AUTH_MODE=token if it has a token") from error
    try:
        yield
    finally:
        ray.shutdown()
