"""Low-precision graphs: speed, and loss in task metrics."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from albef.config import Config
from albef.data.lists import Lists
from albef.export import quantize
from albef.export import repository as repositories
from albef.serving import protocol
from albef.serving.session import GraphError, open_session
from albef.tasks import registry
from benchmarks.load.graphs import inputs_of
from benchmarks.load.local import Graph, Local
from benchmarks.load.variants import VARIANTS, tiled


def make(repository: Path, variant: str, tasks: Sequence[str], out: Path) -> dict[str, Path]:
    """Convert the graphs of some tasks to a variant.

    Files are laid out as by the export stage. A graph that ONNX Runtime cannot load in this variant stays in fp32.

    Returns:
        Files by the name of the graph in the repository.
    """
    files = {}
    for task in tasks:
        (out / task).mkdir(parents=True)
        for graph in registry.graphs(task):
            name = protocol.model_name(task, graph)
            source, files[name] = repository / name / "1" / "model.onnx", out / task / f"{graph}.onnx"
            if variant == "fp32":
                shutil.copyfile(source, files[name])
            else:
                VARIANTS[variant](source, files[name])
                try:
                    open_session(files[name])
                except GraphError as error:
                    print(
                        f"{name}: kept in fp32, because {variant} does not load: {str(error)[-200:]}", file=sys.stderr
                    )
                    shutil.copyfile(source, files[name])
    return files


def latencies(
    repository: Path, files: dict[str, Path], inputs: dict[str, list[Any]], batches: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield latencies of each graph and batch size for both precisions, measured alternately."""
    for name, rows in inputs.items():
        original, variant = Graph(repository / name), Graph(repository / name, files[name])
        outputs = [output.name for output in original.session.get_outputs()]
        for batch in batches:
            feeds, times = tiled(rows[0], batch), ([], [])  # type: tuple[dict[str, Any], tuple[list[float], list[float]]]
            for number in range(-1, rounds):
                for side, graph in enumerate((original, variant)):
                    start = time.perf_counter()
                    graph.run(feeds, outputs)
                    if number >= 0:  # the first run allocates memory
                        times[side].append(time.perf_counter() - start)
            ours, theirs = np.array(times[0]), np.array(times[1])
            yield {
                "graph": name,
                "batch": batch,
                "fp32_ms": 1e3 * float(np.median(ours)),
                "variant_ms": 1e3 * float(np.median(theirs)),
                "speedup": float(np.median(ours / theirs)),
                "size": files[name].stat().st_size / (repository / name / "1" / "model.onnx").stat().st_size,
            }


def accuracy(
    config: Config, artifacts: Path, repository: Path, tasks: Sequence[str], variants: Sequence[str], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield each task metric on the test lists for every variant.

    The search index is encoded with the graphs of the variant.
    """
    lists, images = artifacts / "validated" / "lists", artifacts / "data"
    baseline: dict[str, list[float]] = {}
    for variant in ("fp32", *variants):
        with tempfile.TemporaryDirectory(prefix="albef-precision-") as folder:
            make(repository, variant, tasks, Path(folder) / "export")
            out = Path(folder) / "repository"
            repositories.run(config, Path(folder) / "export", lists, images, artifacts / "tokenizer", out)
            for task in tasks:
                scores = quantize.scores(Local(out, registry.served_tasks()[task]), task, Lists(lists, images), limit)
                baseline.update({metric: values for metric, values in scores.items() if metric not in baseline})
                for change in quantize.compare({metric: baseline[metric] for metric in scores}, scores):
                    yield {"variant": variant, **asdict(change)}


def measure(
    repository: Path,
    kinds: Sequence[str],
    tasks: Sequence[str],
    variants: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    size: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    """Yield the speed of each variant's graphs on inputs from the endpoints."""
    inputs = inputs_of(repository, kinds, 1, size)
    for variant in variants:
        with tempfile.TemporaryDirectory(prefix="albef-precision-") as folder:
            files = make(repository, variant, tasks, Path(folder) / "export")
            for result in latencies(repository, files, inputs, batches, rounds):
                yield {"variant": variant, **result}


SPEED = ("variant", "graph", "batch", "fp32 ms", "ms", "times as fast", "file")
LOSS = ("variant", "metric", "questions", "value", "loss ± standard error")


def speed_row(result: dict[str, Any]) -> list[Any]:
    """Return a row of the table of speeds."""
    times = [f"{result[key]:.4g}" for key in ("fp32_ms", "variant_ms")]
    gain = f"{result['speedup']:.2f}"
    return [result["variant"], result["graph"], result["batch"], *times, gain, f"{result['size']:.0%}"]


def loss_row(result: dict[str, Any]) -> list[Any]:
    """Return a row of the table of losses."""
    loss = f"{result['loss']:+.4f} ± {result['standard_error']:.4f}"
    return [result["variant"], result["metric"], result["questions"], f"{result['after']:.4f}", loss]
