"""Every ONNX graph by itself, a row at a time: perf_analyzer on the server, beside it closed-loop calls in process.

The inputs are those that the endpoints give to the graphs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from albef.serving import protocol
from albef.serving.runtime import Runtime
from albef.serving.server import TritonServer
from benchmarks.load import perf
from benchmarks.load.local import Graph, Local
from benchmarks.load.loop import Load, closed_loop, side_by_side
from benchmarks.load.questions import KINDS, picture

MOST = 5000
"""Requests of a turn."""


def inputs_of(repository: Path, kinds: Sequence[str], count: int, size: tuple[int, int]) -> dict[str, list[Any]]:
    """By graph of the repository, the first row of what it is given for the first ``count`` questions of any kind."""
    found: dict[str, list[Any]] = {}
    for name in kinds:
        kind = KINDS[name]
        local = Local(repository, kind.endpoint)
        seen: dict[str, list[Any]] = {}
        for graph in local.graphs:
            seen[graph] = local.graphs[graph].record = []
        for seed in range(count):
            local.ask(kind.make(picture(seed, size), seed))
        for graph, feeds in seen.items():
            # The decoder is called twice; its second call is the one that takes time.
            rows = [{key: array[:1] for key, array in each.items()} for each in feeds][-count:]
            if rows:
                found.setdefault(protocol.model_name(kind.endpoint, graph), rows)
    return found


def measure(repository: Path, runtime: Runtime, kinds: Sequence[str], load: Load) -> Iterator[dict[str, Any]]:
    """A result per graph and concurrency, as `endpoints.measure`; no response cache."""
    program, inputs = perf.ensure(runtime), inputs_of(repository, kinds, load.pictures, load.size)
    with TritonServer(repository, runtime=runtime, cache_bytes=0) as server, tempfile.TemporaryDirectory() as folder:
        for name, rows in inputs.items():
            file = Path(folder) / f"{name}.json"
            perf.write_inputs(file, rows)
            graph = Graph(repository / name, 1)
            names = [output.name for output in graph.session.get_outputs()]

            ask = partial(_ask, graph, rows, names)
            for concurrency in load.concurrency:
                theirs = partial(closed_loop, ask, concurrency, load.seconds, concurrency)
                count = int(min(max(theirs().rate * load.seconds, 2 * concurrency), MOST))
                ours = partial(perf.measure, program, server.grpc_url, name, file, concurrency, count)
                yield {"kind": name, "concurrency": concurrency, **side_by_side(ours, theirs, load.rounds).figures()}


def _ask(graph: Graph, rows: Sequence[Any], outputs: Sequence[str], number: int) -> None:
    graph.run(rows[number % len(rows)], outputs)
