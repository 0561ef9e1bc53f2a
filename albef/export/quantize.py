"""Graphs in int8 for servers without a GPU, kept only if the tasks lose little by them: ``albef quantize``.

Weights become int8, a scale per channel; activations uint8, scaled call by call. Products of two activations, as in
attention, stay in fp32. Both repositories are served and asked all questions of the test lists.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from albef.config import Config
from albef.data.files import image_root, new_folder
from albef.export import repository as repositories
from albef.serving.client import Client
from albef.serving.requests import Asker
from albef.serving.server import TritonServer
from albef.tasks import registry

CALLERS = 4
"""Concurrent requests."""


class QuantizationError(ValueError):
    """The graphs cannot be had in int8, or lose too much by it."""


@dataclass(frozen=True)
class Change:
    """A metric before and after.

    Args:
        questions: How many were asked.
        loss: Of the metric, 0 to 1; negative is a gain.
        standard_error: Of the loss, question by question.
    """

    metric: str
    questions: int
    before: float
    after: float
    loss: float
    standard_error: float


def int8(source: Path, target: Path, skip: Callable[[tuple[int, ...]], bool] = lambda shape: False) -> None:
    """Write a graph with weights in int8.

    Args:
        skip: Tells by a weight's shape that it stays in fp32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source)).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    left = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and (shape := shapes.get(node.input[1])) is not None and skip(shape)
    ]
    level, logger = logging.root.level, logging.root
    logger.setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # of 7 bits: sums of 8 overflow on CPUs without VNNI
            nodes_to_exclude=left,
        )
    finally:
        logger.setLevel(level)


def scores(client: Asker, task: str, lists: Path, images: Path, limit: int | None = None) -> dict[str, list[float]]:
    """Ask an endpoint the questions of the test list.

    Args:
        limit: Rows of the list; all by default.

    Returns:
        The score of each question by metric.

    Raises:
        SchemaError: If the list is missing or malformed.
    """
    found: dict[str, list[float]] = {}
    every = list(islice(registry.module(task, "client").questions(lists, images), limit))
    with ThreadPoolExecutor(CALLERS) as pool:
        for part in tqdm(pool.map(lambda ask: ask(client), every), total=len(every), desc=task, disable=None):
            for metric, values in part.items():
                found.setdefault(metric, []).extend(values)
    return found


def compare(before: dict[str, list[float]], after: dict[str, list[float]]) -> list[Change]:
    """What each metric lost."""
    changes = []
    for metric, old in before.items():
        lost = np.array(old) - np.array(after[metric])
        error = float(lost.std(ddof=1) / np.sqrt(len(lost))) if len(lost) > 1 else 0.0
        changes.append(
            Change(metric, len(old), float(np.mean(old)), float(np.mean(after[metric])), float(lost.mean()), error)
        )
    return changes


def run(
    config: Config,
    export: Path,
    lists: Path,
    images: Path,
    tokenizer: Path,
    repository: Path,
    out: Path,
    max_loss: float,
    limit: int | None = None,
) -> list[Change]:
    """Write a model repository with graphs in int8, if no metric loses more than ``max_loss`` by them.

    Args:
        export: Folder of the exported graphs, as for `albef.export.repository.run`.
        repository: That of the graphs in fp32, to compare with.
        limit: Rows of each test list; all by default.

    Raises:
        QuantizationError: If a metric loses more, or ONNX Runtime does not take a graph; nothing is written then.
    """
    tasks = [task for task in registry.endpoints() if (repository / task).is_dir()]
    if not tasks:
        raise QuantizationError(f"{repository}: no endpoint here, expected a folder written by `albef repository`")
    with tempfile.TemporaryDirectory(prefix="albef-quantize-") as folder, new_folder(out) as made:
        small = Path(folder)
        for task in tasks:
            (small / task).mkdir()
            for graph in registry.graphs(task):
                source = export / task / f"{graph}.onnx"
                try:
                    int8(source, small / task / source.name)
                except Exception as error:
                    raise QuantizationError(f"{source}: not to be had in int8: {error}") from error
        repositories.run(config, small, lists, images, tokenizer, made)
        before, after = (_measure(each, tasks, lists, image_root(images), limit) for each in (repository, made))
        changes = compare(before, after)
        lost = [change for change in changes if change.loss > max_loss]
        if lost:
            said = "; ".join(f"{each.metric} {each.before:.4f} in fp32, {each.after:.4f} in int8" for each in lost)
            raise QuantizationError(f"{said}: more than the {max_loss:g} that may be lost, so {out} is not written")
    return changes


def _measure(
    repository: Path, tasks: list[str], lists: Path, images: Path, limit: int | None
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with TritonServer(repository) as server, Client(server.grpc_url, timeout=120) as client:
        for task in tasks:
            found |= scores(client, task, lists, images, limit)
    return found


def show(changes: list[Change]) -> str:
    """A table for people."""
    lines = ["metric                fp32     int8     loss ± standard error   questions"]
    lines += [
        f"{c.metric:20} {c.before:7.4f}  {c.after:7.4f}  {c.loss:+.4f} ± {c.standard_error:.4f} {c.questions:15}"
        for c in changes
    ]
    return "\n".join(lines)


def as_json(changes: list[Change]) -> str:
    """The same for programs."""
    return json.dumps([asdict(change) for change in changes], indent=1) + "\n"
