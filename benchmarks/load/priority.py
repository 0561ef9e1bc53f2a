"""Latency of a few callers beside many that do bulk work, with both priorities."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from albef.serving.client import Client
from albef.serving.server import TritonServer
from albef.serving.service import Service
from benchmarks.load.loop import Run, closed_loop
from benchmarks.load.questions import KINDS, Questions

CALLERS = 2
"""Callers whose latency counts."""
HEADER = ["bulk callers", "their priority", "p50 ms", "p99 ms", "answers /s", "bulk answers /s"]


def measure(
    repository: Path, kind: str, bulk: int, seconds: float, images: int, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Measure callers alone, then beside bulk work of each priority, and bulk work alone.

    Args:
        bulk: Number of bulk callers.
        seconds: Duration of each measurement.
    """
    questions = Questions(KINDS[kind], images, size)
    results = []
    with TritonServer(repository, cache_bytes=0) as server, Service(server) as service:
        for callers, others, priority in ((CALLERS, 0, 1), (CALLERS, bulk, 1), (CALLERS, bulk, 2), (0, bulk, 2)):
            runs = _together(str(service.grpc_url), questions, images, {1: callers, -priority: others}, seconds)
            results.append({"bulk": others, "priority": priority, "callers": runs[1], "others": runs[-priority]})
    return results


def _together(url: str, questions: Questions, images: int, callers: dict[int, int], seconds: float) -> dict[int, Run]:
    """Run groups of callers at the same time.

    Args:
        callers: Number of callers by key, whose absolute value is their priority.
    """
    runs = {key: Run() for key in callers}

    def group(key: int, count: int) -> None:
        with Client(url, timeout=600, priority=abs(key)) as client:
            runs[key] = closed_loop(lambda number: client.ask(questions[number % images]), count, seconds)

    threads = [threading.Thread(target=group, args=item) for item in callers.items() if item[1]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return runs


def row(result: dict[str, Any]) -> Sequence[str]:
    """Return the cells of a result."""
    callers, others = result["callers"], result["others"]
    numbers = [f"{value:.1f}" for value in (callers.percentile(50), callers.percentile(99), callers.rate, others.rate)]
    priority = str(result["priority"]) if result["bulk"] else ""
    return [str(result["bulk"]), priority, *(number.replace("nan", "") for number in numbers)]
