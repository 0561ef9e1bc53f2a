"""Answers in time while more requests arrive than a service can answer."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from albef.serving.client import BusyError, Client, ServerTimeoutError, ServingError
from albef.serving.server import TritonServer
from albef.serving.service import Service
from benchmarks.load.loop import closed_loop
from benchmarks.load.questions import KINDS, Questions

HEADER = [
    "path",
    "capacity /s",
    "offered /s",
    "answered in time /s",
    "in the last third /s",
    "refused",
    "late",
    "back s",
]


def measure(
    repository: Path, kind: str, factor: float, seconds: float, deadline: float, images: int, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Offer a multiple of the capacity to Triton alone, and to the service with its proxy.

    Args:
        factor: Offered requests as a multiple of the capacity, which is measured before.
        deadline: Seconds in which an answer is of use.
    """
    questions = Questions(KINDS[kind], images, size)
    results = []
    with TritonServer(repository, cache_bytes=0) as server, Service(server) as service:
        for path, url in (("Triton alone", server.grpc_url), ("proxy", service.grpc_url)):
            with Client(url, timeout=deadline, retries=0) as client:
                load = closed_loop(lambda number: client.ask(questions[number % images]), 16, 8)
                offered = _offer(client, questions, images, factor * load.rate, seconds, deadline)
                results.append({"path": path, "capacity": load.rate, "offered": factor * load.rate, **offered})
    return results


def _offer(
    client: Client, questions: Questions, images: int, rate: float, seconds: float, deadline: float
) -> dict[str, Any]:
    """Send requests at random times, whether or not earlier ones are answered."""
    outcomes: Counter[str] = Counter()
    answered: list[float] = []
    lock, start, choose = threading.Lock(), time.monotonic(), random.Random(0)

    def ask(number: int) -> None:
        try:
            client.ask(questions[number % images])
            outcome = "answered"
        except BusyError:
            outcome = "refused"
        except ServerTimeoutError:
            outcome = "late"
        except ServingError as error:
            outcome = str(error)[:80]
        with lock:
            outcomes[outcome] += 1
            if outcome == "answered":
                answered.append(time.monotonic() - start)

    with ThreadPoolExecutor(int(rate * deadline) + 16) as pool:
        at, number = 0.0, 0
        while (at := at + choose.expovariate(rate)) < seconds:
            time.sleep(max(start + at - time.monotonic(), 0))
            pool.submit(ask, number)
            number += 1
        until_back = _recovery(client, questions, deadline)
    last = [when for when in answered if 2 * seconds / 3 <= when < seconds]
    return {
        "answered": len([when for when in answered if when < seconds]) / seconds,
        "last": len(last) / (seconds / 3),
        "outcomes": dict(outcomes),
        "back": until_back,
    }


def _recovery(client: Client, questions: Questions, deadline: float) -> float:
    """Return the seconds until a request is answered within a tenth of the deadline."""
    start = time.monotonic()
    while time.monotonic() - start < 60:
        asked = time.monotonic()
        try:
            client.ask(questions[0])
            if time.monotonic() - asked < deadline / 10:
                break
        except ServingError:
            time.sleep(0.05)
    return time.monotonic() - start


def row(result: dict[str, Any]) -> Sequence[str]:
    """Return the cells of a result."""
    outcomes = result["outcomes"]
    numbers = [f"{result[key]:.1f}" for key in ("capacity", "offered", "answered", "last")]
    others = [str(outcomes.get(key, 0)) for key in ("refused", "late")]
    return [result["path"], *numbers, *others, f"{result['back']:.1f}"]
