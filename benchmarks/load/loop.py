"""Closed-loop load, and what is said of its latencies."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Load:
    """What is asked of both sides.

    Args:
        concurrency: Callers at a time, one load after the other.
        rounds: Turns of each side.
        seconds: Of a turn.
        pictures: Different requests of a kind.
        size: Width and height of the pictures.
    """

    concurrency: Sequence[int]
    rounds: int
    seconds: float
    pictures: int
    size: tuple[int, int]


@dataclass
class Run:
    """What became of the requests of a load.

    Args:
        latencies: Seconds, of those that were answered.
        seconds: From the first request to the last answer.
        failures: How many failed, by what happened.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Run) -> Run:
        return Run(self.latencies + other.latencies, self.seconds + other.seconds, self.failures + other.failures)

    def percentile(self, percent: float) -> float:
        """A latency in milliseconds that ``percent`` of the requests did not exceed; interpolated."""
        return 1e3 * float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else float("nan")


def closed_loop(ask: Callable[[int], Any], concurrency: int, seconds: float, least: int = 1) -> Run:
    """Callers that each ask again as soon as they are answered.

    Args:
        ask: Puts the request of this number, and returns when it is answered.
        seconds: No request starts later, once the callers together made ``least`` requests.
    """
    numbers, start = itertools.count(), threading.Barrier(concurrency + 1)
    runs = [Run() for _ in range(concurrency)]
    deadline = 0.0

    def caller(run: Run) -> None:
        start.wait()
        while True:
            number, began = next(numbers), time.perf_counter()
            if number >= least and began > deadline:
                return
            try:
                ask(number)
            except Exception as error:  # whatever it is, it is counted
                run.failures[f"{type(error).__name__}: {str(error)[:120]}"] += 1
            else:
                run.latencies.append(time.perf_counter() - began)

    threads = [threading.Thread(target=caller, args=(run,), daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    deadline = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    total = sum(runs, Run())
    total.seconds = time.perf_counter() - began
    return total


@dataclass(frozen=True)
class Beside:
    """Two sides that took turns, round by round.

    Args:
        ours, theirs: All rounds together: the server's and the baseline's.
        ratios: Of the medians, a round each.
    """

    ours: Run
    theirs: Run
    ratios: list[float]

    @property
    def ratio(self) -> float:
        """Median over the rounds of our median latency over theirs."""
        return float(np.median(self.ratios))

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        sides = {
            name: {
                "p50_ms": run.percentile(50),
                "p99_ms": run.percentile(99),
                "per_s": run.rate,
                "requests": len(run.latencies),
                "failures": dict(run.failures),
            }
            for name, run in (("server", self.ours), ("in_process", self.theirs))
        }
        return {**sides, "p50_ratio": self.ratio, "p50_ratios": self.ratios}


def side_by_side(ours: Callable[[], Run], theirs: Callable[[], Run], rounds: int) -> Beside:
    """Run both in turn; the order changes from round to round, as the machine's other work may drift."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = theirs()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, theirs()))
    ratios = [a.percentile(50) / b.percentile(50) for a, b in pairs]
    return Beside(sum((a for a, _ in pairs), Run()), sum((b for _, b in pairs), Run()), ratios)


def line(values: Iterable[Any]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(str, values)) + " |"


def table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    return "\n".join(map(line, (header, ["---"] * len(header), *rows)))
