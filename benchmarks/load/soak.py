"""Long-running load that records failed requests and memory use."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from albef.serving.client import Client
from albef.serving.server import TritonServer
from benchmarks.load.loop import closed_loop, table
from benchmarks.load.questions import KINDS, Questions

WARM_UP = 0.2
"""Fraction of the run that is excluded from memory statistics, while memory pools and the cache fill."""


def processes(session: int) -> list[int]:
    """Return the process ids of a session: the server and its children."""
    pids = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if os.getsid(int(path.name)) == session:
                    pids.append(int(path.name))
            except ProcessLookupError:
                continue
    return pids


def memory(pids: Sequence[int]) -> dict[str, float]:
    """Return resident and proportional MiB of some processes; Pss counts shared pages once."""
    totals = {"Rss": 0.0, "Pss": 0.0}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            key, _, rest = line.partition(":")
            if key in totals:
                totals[key] += int(rest.split()[0]) / 1024
    return totals


def slope(minutes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return least-squares slope and standard error; NaN below three points."""
    x, y = np.asarray(minutes), np.asarray(values)
    if len(x) < 3:
        return float("nan"), float("nan")
    centered = x - x.mean()
    gradient = float(centered @ y / (centered @ centered))
    residuals = y - y.mean() - gradient * centered
    return gradient, float(np.sqrt(residuals @ residuals / (len(x) - 2) / (centered @ centered)))


def run(
    repository: Path,
    kinds: Sequence[str],
    concurrency: int,
    seconds: float,
    every: float,
    images: int,
    size: tuple[int, int],
    cache_bytes: int,
) -> dict[str, Any]:
    """Send requests of all kinds in random order, and sample the server's memory.

    Args:
        every: Seconds between memory samples.
    """
    questions = [Questions(KINDS[name], images, size) for name in kinds]
    count = len(questions) * images
    order = random.Random(0).sample(range(count), count)
    samples: list[dict[str, float]] = []
    with TritonServer(repository, cache_bytes=cache_bytes) as server, Client(server.grpc_url, timeout=120) as client:
        assert server.pid is not None
        started, done = time.monotonic(), threading.Event()
        before = processes(server.pid)

        def watch(leader: int) -> None:
            while True:
                pids = processes(leader)
                samples.append({"s": time.monotonic() - started, "processes": len(pids), **memory(pids)})
                if done.wait(every):
                    return

        def ask(number: int) -> None:
            index = order[number % count]
            client.ask(questions[index % len(questions)][index // len(questions)])

        watcher = threading.Thread(target=watch, args=(server.pid,), daemon=True)
        watcher.start()
        load = closed_loop(ask, concurrency, seconds)
        done.set()
        watcher.join()
        lost = len(before) - len(processes(server.pid))
    # After the deadline the server only finishes its last requests.
    kept = [sample for sample in samples if WARM_UP * seconds <= sample["s"] <= seconds]
    result: dict[str, Any] = {
        "kinds": list(kinds),
        "concurrency": concurrency,
        "seconds": load.seconds,
        "requests": len(load.latencies),
        "failures": dict(load.failures),
        "p50_ms": load.percentile(50),
        "p99_ms": load.percentile(99),
        "per_s": load.rate,
        "lost_processes": lost,
        "samples": samples,
    }
    for key in ("Rss", "Pss"):
        values = [sample[key] for sample in kept]
        gradient, error = slope([sample["s"] / 60 for sample in kept], values)
        middle = values[len(values) // 2] if values else float("nan")
        ends = (values[0], values[-1]) if values else (float("nan"),) * 2
        result[key] = {
            "warm_mib": ends[0],
            "middle_mib": middle,
            "end_mib": ends[1],
            "mib_per_minute": gradient,
            "standard_error": error,
        }
    return result


def report(result: dict[str, Any]) -> str:
    """Format the result as text."""
    failed = ", ".join(f"{count} x {error}" for error, count in result["failures"].items()) or "none"
    rows = [
        [
            {"Rss": "resident", "Pss": "proportional"}[key],
            *(f"{result[key][when]:.1f}" for when in ("warm_mib", "middle_mib", "end_mib")),
            f"{result[key]['mib_per_minute']:+.2f} ± {result[key]['standard_error']:.2f}",
        ]
        for key in ("Rss", "Pss")
    ]
    return (
        f"{result['requests']} requests in {result['seconds'] / 60:.1f} minutes, {result['concurrency']} at a time "
        f"({', '.join(result['kinds'])}): {result['per_s']:.1f} per second, "
        f"p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms\n"
        f"failed: {failed}; processes lost: {result['lost_processes']}\n\n"
        + table(("MiB of the server and its stubs", "warm", "middle", "end", "per minute ± standard error"), rows)
    )
