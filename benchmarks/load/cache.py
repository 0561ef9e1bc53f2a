"""Effect of the response cache on repeated and on new images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from albef.serving import protocol
from albef.serving.client import Client
from albef.serving.server import TritonServer
from albef.tasks import registry
from benchmarks.load.loop import Run
from benchmarks.load.questions import KINDS, make_image


def measure(repository: Path, name: str, images: int, again: int, size: tuple[int, int]) -> dict[str, Any]:
    """Measure latencies of a server with the cache and of one without.

    Requests are sent one at a time.

    Args:
        again: Further questions about each image, all different.
    """
    make = KINDS[name].make
    runs: dict[str, Run] = {side: Run() for side in ("first", "again", "without")}
    with (
        TritonServer(repository) as caching,
        TritonServer(repository, cache_bytes=0) as plain,
        Client(caching.grpc_url, timeout=600) as with_cache,
        Client(plain.grpc_url, timeout=600) as without,
    ):
        for client in (with_cache, without):
            client.ask(make(make_image(-1 % 2**32, size), 0))
        before = _lookups(with_cache, KINDS[name].endpoint)
        for number in range(images):
            image = make_image(number, size)
            for turn in range(again + 1):
                call = make(image, number * (again + 1) + turn)
                sides = [(with_cache, "again" if turn else "first"), (without, "without")]
                for client, side in sides if turn % 2 else reversed(sides):
                    began = time.perf_counter()
                    client.ask(call)
                    runs[side].latencies.append(time.perf_counter() - began)
        after = _lookups(with_cache, KINDS[name].endpoint)
    p50 = {side: run.percentile(50) for side, run in runs.items()}
    return {
        "kind": name,
        "images": images,
        "again": again,
        "p50_ms": p50,
        "gain": p50["without"] / p50["again"],
        "cost_of_a_miss": p50["first"] / p50["without"],
        "hits": after[0] - before[0],
        "misses": after[1] - before[1],
    }


def _lookups(client: Client, endpoint: str) -> tuple[int, int]:
    """Return the server's cache hits and misses so far."""
    stats = client.triton.get_inference_statistics(registry.graph_models(endpoint)[protocol.VISION]).model_stats[0]
    return stats.inference_stats.cache_hit.count, stats.inference_stats.cache_miss.count


HEADER = ("request", "no cache, p50 ms", "first time", "again", "gain", "first time / no cache", "hits / misses")


def row(result: dict[str, Any]) -> list[Any]:
    """Return a row of the table."""
    p50 = result["p50_ms"]
    return [
        result["kind"],
        *(f"{p50[side]:.4g}" for side in ("without", "first", "again")),
        f"{result['gain']:.2f}",
        f"{result['cost_of_a_miss']:.2f}",
        f"{result['hits']} / {result['misses']}",
    ]
