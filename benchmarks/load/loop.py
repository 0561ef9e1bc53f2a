"""Closed-loop load and statistics of its latencies."""

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
    """Load applied to both sides of a comparison.

    Args:
        concurrency: Numbers of concurrent callers, measured one after another.
        rounds: Rounds per side.
        seconds: Duration of a round.
        images: Number of distinct requests of a kind.
        size: Width and height of the images.
    """

    concurrency: Sequence[int]
    rounds: int
    seconds: float
    images: int
    size: tuple[int, int]


@dataclass
class Run:
    """Results of the requests of a load.

    Args:
        latencies: Seconds of each answered request.
        seconds: Time from the first request to the last answer.
        failures: Number of failed requests by error.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Run) -> Run:
        return Run(self.latencies + other.latencies, self.seconds + other.seconds, self.failures + other.failures)

    def percentile(self, percent: float) -> float:
        """Return an interpolated percentile of the latencies in milliseconds; NaN without requests."""
        return 1e3 * float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds if self.seconds else float("nan")


def closed_loop(ask: Callable[[int], Any], concurrency: int, seconds: float, least: int = 1) -> Run:
    """Run callers that send the next request after each answer.

    Args:
        ask: Sends the request with this number, and returns when it is answered.
        seconds: Time after which no request starts, provided that the callers have made ``least`` requests together.
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
            except Exception as error:  # every error is counted
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
class Comparison:
    """Results of two sides that ran in alternation.

    Args:
        ours, theirs: All rounds of the server and of the baseline.
        ratios: Ratio of the median latencies in each round.
    """

    ours: Run
    theirs: Run
    ratios: list[float]

    @property
    def ratio(self) -> float:
        """Median over the rounds of the ratio of median latencies."""
        return float(np.median(self.ratios))

    def figures(self) -> dict[str, Any]:
        """Return the results as plain data."""
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


def side_by_side(ours: Callable[[], Run], theirs: Callable[[], Run], rounds: int) -> Comparison:
    """Run both sides in alternation.

    The order changes from round to round, because the load of the machine may drift.
    """
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = theirs()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, theirs()))
    ratios = [a.percentile(50) / b.percentile(50) for a, b in pairs]
    return Comparison(sum((a for a, _ in pairs), Run()), sum((b for _, b in pairs), Run()), ratios)


def line(values: Iterable[Any]) -> str:
    """Format a row of a Markdown table."""
    return "| " + " | ".join(map(str, values)) + " |"


def table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Format a Markdown table."""
    return "\n".join(map(line, (header, ["---"] * len(header), *rows)))
