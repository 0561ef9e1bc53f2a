"""Connection to Ray, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

OBJECT_STORE_BYTES = 128 * 2**20
"""Small, since workers exchange little data through Ray."""


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Connect to Ray.

    An existing connection is reused. Otherwise connect to the cluster at ``RAY_ADDRESS``, or start a local one on the
    loopback address.

    Args:
        cpus: Minimum number of CPUs of a local cluster. It may exceed the number of cores.
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
    ray.init(address=address or "local", **quiet, **({} if address else local))
    try:
        yield
    finally:
        ray.shutdown()
