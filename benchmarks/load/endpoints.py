"""Endpoints on a real server, compared with the same endpoints in process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from albef.serving.client import Client
from albef.serving.server import TritonServer
from albef.tasks import registry
from benchmarks.load.local import Local
from benchmarks.load.loop import Comparison, Load, closed_loop, side_by_side, table
from benchmarks.load.questions import KINDS, Questions

TOLERANCE = 1e-3
"""Largest accepted difference between the sides, relative to the largest number of the answer."""
COMPARED = 3
"""Requests whose answers are compared before the measurement."""


class DifferentAnswersError(ValueError):
    """Server and baseline gave different answers."""


def numbers(answer: Any) -> Iterator[float]:
    """Yield the numbers of an answer in order."""
    if dataclasses.is_dataclass(answer):
        for field in dataclasses.fields(answer):
            yield from numbers(getattr(answer, field.name))
    elif isinstance(answer, dict):
        yield from numbers(list(answer.values()))
    elif isinstance(answer, (list, tuple, np.ndarray)):
        for part in answer:
            yield from numbers(part)
    elif not isinstance(answer, str):
        yield float(answer)


def difference(ours: Any, theirs: Any) -> float:
    """Return the largest relative difference of two answers; inf for different lengths."""
    a, b = (np.array(list(numbers(answer))) for answer in (ours, theirs))
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1.0))


def available_kinds(repository: Path) -> list[str]:
    """Return the kinds of requests that a repository can answer."""
    return [name for name, kind in KINDS.items() if (repository / kind.endpoint / "config.pbtxt").is_file()]


def graph_times(client: Client, endpoint: str) -> dict[str, dict[str, float]]:
    """Return the server's totals per graph: requests, runs, and nanoseconds by phase."""
    totals = {}
    for graph, model in registry.graph_models(endpoint).items():
        stats = client.triton.get_inference_statistics(model).model_stats[0]
        phases = stats.inference_stats
        totals[graph] = {
            "requests": phases.success.count,
            "runs": stats.execution_count,
            **{n: getattr(phases, n).ns for n in ("queue", "compute_input", "compute_infer", "compute_output")},
        }
    return totals


def per_question(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], questions: int
) -> dict[str, dict[str, float]]:
    """Return requests, runs and milliseconds of each graph per question."""
    return {
        graph: {
            name: (value - before[graph][name]) / questions / (1 if name in ("requests", "runs") else 1e6)
            for name, value in totals.items()
        }
        for graph, totals in after.items()
    }


def measure(repository: Path, kinds: Sequence[str], load: Load) -> Iterator[dict[str, Any]]:
    """Yield a result per kind and concurrency, measured without the response cache.

    Raises:
        DifferentAnswersError: If an answer of the server differs from that of the baseline.
    """
    with TritonServer(repository, cache_bytes=0) as server, Client(server.grpc_url, timeout=600) as client:
        for name in kinds:
            kind = KINDS[name]
            questions, local = Questions(kind, load.images, load.size), Local(repository, kind.endpoint)
            for number in range(COMPARED):
                error = difference(client.ask(questions[number]), local.ask(questions[number]))
                if error > TOLERANCE:
                    raise DifferentAnswersError(
                        f"{name}: answers differ by {error:.1e}, expected at most {TOLERANCE:.0e}"
                    )
            for concurrency in load.concurrency:
                yield {"kind": name, **_one(client, local, questions, concurrency, load.rounds, load.seconds)}


def _one(
    client: Client, local: Local, questions: Questions, concurrency: int, rounds: int, seconds: float
) -> dict[str, Any]:
    endpoint, local_before = questions.kind.endpoint, [graph.seconds for graph in local.graphs.values()]
    before = graph_times(client, endpoint)
    comparison: Comparison = side_by_side(
        lambda: closed_loop(lambda n: client.ask(questions[n]), concurrency, seconds, concurrency),
        lambda: closed_loop(lambda n: local.ask(questions[n]), concurrency, seconds, concurrency),
        rounds,
    )
    local_questions = len(comparison.theirs.latencies)
    return {
        "concurrency": concurrency,
        **comparison.figures(),
        "server_graphs": per_question(before, graph_times(client, endpoint), len(comparison.ours.latencies)),
        "in_process_graphs_ms": {
            name: 1e3 * (graph.seconds - start) / local_questions
            for (name, graph), start in zip(local.graphs.items(), local_before, strict=True)
        },
    }


HEADER = (
    *("request", "c", "p50 ms", "in process", "ratio (rounds)"),
    *("p99 ms", "in process", "per s", "in process", "requests"),
)


def row(result: dict[str, Any]) -> list[Any]:
    """Return a row of the table."""
    ours, theirs = result["server"], result["in_process"]
    low, high = min(result["p50_ratios"]), max(result["p50_ratios"])
    values = [f"{side[key]:.4g}" for key in ("p50_ms", "p99_ms", "per_s") for side in (ours, theirs)]
    ratio = f"{result['p50_ratio']:.3f} ({low:.2f} to {high:.2f})"
    count = f"{ours['requests']} / {theirs['requests']}"
    return [result["kind"], result["concurrency"], *values[:2], ratio, *values[2:], count]


def profile(result: dict[str, Any]) -> str:
    """Return a table of milliseconds per request in each graph."""
    rows = [
        [
            f"{result['kind']} {graph}",
            f"{each['requests']:.3g}",
            f"{each['runs']:.3g}",
            *(f"{each[key]:.2f}" for key in ("queue", "compute_input", "compute_infer", "compute_output")),
            f"{result['in_process_graphs_ms'][graph]:.2f}",
        ]
        for graph, each in result["server_graphs"].items()
    ]
    return table(("graph", "calls", "runs", "queue", "input", "infer", "output", "in process"), rows)
