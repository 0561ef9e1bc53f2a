"""Single ONNX graphs: perf_analyzer on the server, compared with calls in process.

Each request has one row. The inputs are those that the endpoints pass to the graphs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from albef.serving.runtime import Runtime
from albef.serving.server import TritonServer
from albef.tasks import registry
from benchmarks.load import perf
from benchmarks.load.local import Graph, Local
from benchmarks.load.loop import Load, closed_loop, side_by_side
from benchmarks.load.questions import KINDS, make_image

MAX_REQUESTS = 5000
"""Largest number of requests per round."""


def inputs_of(repository: Path, kinds: Sequence[str], count: int, size: tuple[int, int]) -> dict[str, list[Any]]:
    """Return one-row inputs of each graph for ``count`` questions of every kind."""
    inputs: dict[str, list[Any]] = {}
    for name in kinds:
        kind = KINDS[name]
        local = Local(repository, kind.endpoint)
        recorded: dict[str, list[Any]] = {}
        for graph in local.graphs:
            recorded[graph] = local.graphs[graph].record = []
        for seed in range(count):
            local.ask(kind.make(make_image(seed, size), seed))
        for graph, calls in recorded.items():
            # The decoder is called twice; the second call takes most of the time.
            rows = [{key: array[:1] for key, array in feeds.items()} for feeds in calls][-count:]
            if rows:
                inputs.setdefault(registry.graph_models(kind.endpoint)[graph], rows)
    return inputs


def measure(repository: Path, runtime: Runtime, kinds: Sequence[str], load: Load) -> Iterator[dict[str, Any]]:
    """Yield a result per graph and concurrency, measured without the response cache.

    The format is that of `endpoints.measure`.
    """
    program, inputs = perf.ensure(runtime), inputs_of(repository, kinds, load.images, load.size)
    with TritonServer(repository, runtime=runtime, cache_bytes=0) as server, tempfile.TemporaryDirectory() as folder:
        for name, rows in inputs.items():
            file = Path(folder) / f"{name}.json"
            perf.write_inputs(file, rows)
            graph = Graph(repository / name)
            names = [output.name for output in graph.session.get_outputs()]

            ask = partial(_ask, graph, rows, names)
            for concurrency in load.concurrency:
                theirs = partial(closed_loop, ask, concurrency, load.seconds, concurrency)
                count = int(min(max(theirs().rate * load.seconds, 2 * concurrency), MAX_REQUESTS))
                ours = partial(perf.measure, program, server.grpc_url, name, file, concurrency, count)
                yield {"kind": name, "concurrency": concurrency, **side_by_side(ours, theirs, load.rounds).figures()}


def _ask(graph: Graph, rows: Sequence[Any], outputs: Sequence[str], number: int) -> None:
    graph.run(rows[number % len(rows)], outputs)
