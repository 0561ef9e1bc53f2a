"""Dynamic int8 quantization of exported graphs (``albef quantize``).

Weights are quantized to int8 per channel, activations to uint8 with a scale per inference. Products of two
activations, as in attention, stay in fp32. Both repositories are served and evaluated on the test lists.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from albef.config import Config
from albef.data.files import new_folder
from albef.data.lists import Lists
from albef.export import repository as repositories
from albef.progress import Progress
from albef.serving.client import Client
from albef.serving.requests import Asker
from albef.serving.server import TritonServer
from albef.tasks import registry

CONCURRENCY = 4
"""Number of concurrent requests."""


class QuantizationError(ValueError):
    """The graphs cannot be quantized, or a metric decreases too much."""


@dataclass(frozen=True)
class Change:
    """Change of a metric by quantization.

    Args:
        questions: Number of questions.
        loss: Decrease of the metric; negative if it increased.
        standard_error: Standard error of the loss, from paired differences per question.
    """

    metric: str
    questions: int
    before: float
    after: float
    loss: float
    standard_error: float


def int8(source: Path, target: Path, skip: Callable[[tuple[int, ...]], bool] = lambda shape: False) -> None:
    """Quantize a graph.

    Args:
        skip: Returns whether a weight of the given shape stays in fp32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source)).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    excluded = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and (shape := shapes.get(node.input[1])) is not None and skip(shape)
    ]
    level, logger = logging.root.level, logging.root
    logger.setLevel(logging.ERROR)  # hides the advice to preprocess, which has no effect on these graphs
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bits, as sums of 8-bit products overflow on CPUs without VNNI
            nodes_to_exclude=excluded,
        )
    finally:
        logger.setLevel(level)


def scores(client: Asker, task: str, data: Lists, limit: int | None = None) -> dict[str, list[float]]:
    """Evaluate the endpoint of a task on the questions of the test list.

    Args:
        limit: Maximum number of questions; all by default.

    Returns:
        Scores of the questions, by metric.

    Raises:
        SchemaError: If the list is missing or malformed.
    """
    result: dict[str, list[float]] = {}
    score = registry.module(task, "client").score
    rows = data[str(registry.spec(task).test_list)][:limit]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        parts = pool.map(lambda row: score(row, data, client), rows)
        for part in Progress(parts, len(rows), description=task, unit="questions"):
            for metric, values in part.items():
                result.setdefault(metric, []).extend(values)
    return result


def compare(before: dict[str, list[float]], after: dict[str, list[float]]) -> list[Change]:
    """Return the change of each metric."""
    changes = []
    for metric, old in before.items():
        losses = np.array(old) - np.array(after[metric])
        error = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0
        changes.append(
            Change(metric, len(old), float(np.mean(old)), float(np.mean(after[metric])), float(losses.mean()), error)
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
    """Write a model repository with int8 graphs.

    Nothing is written if a metric decreases by more than ``max_loss``.

    Args:
        export: Folder of the exported graphs, as for `albef.export.repository.run`.
        repository: Repository of the fp32 graphs, to compare with.
        limit: Maximum number of questions of each test list; all by default.

    Raises:
        QuantizationError: If a metric decreases by more than ``max_loss``, or a graph cannot be quantized; nothing is
            written then.
    """
    tasks = [task for task, endpoint in registry.served_tasks().items() if (repository / endpoint).is_dir()]
    if not tasks:
        raise QuantizationError(f"{repository}: contains no endpoint; expected a folder written by `albef repository`")
    with tempfile.TemporaryDirectory(prefix="albef-quantize-") as folder, new_folder(out) as quantized:
        graphs = Path(folder)
        for task in tasks:
            (graphs / task).mkdir()
            for graph in registry.graphs(task):
                source = export / task / f"{graph}.onnx"
                try:
                    int8(source, graphs / task / source.name)
                except Exception as error:
                    raise QuantizationError(f"{source}: cannot quantize to int8: {error}") from error
        repositories.run(config, graphs, lists, images, tokenizer, quantized)
        before, after = (_measure(each, tasks, Lists(lists, images), limit) for each in (repository, quantized))
        changes = compare(before, after)
        excessive = [change for change in changes if change.loss > max_loss]
        if excessive:
            values = "; ".join(
                f"{each.metric} {each.before:.4f} in fp32, {each.after:.4f} in int8" for each in excessive
            )
            raise QuantizationError(f"{values}: the loss exceeds the allowed {max_loss:g}; {out} was not written")
    return changes


def _measure(repository: Path, tasks: list[str], data: Lists, limit: int | None) -> dict[str, list[float]]:
    result: dict[str, list[float]] = {}
    with TritonServer(repository) as server, Client(server.grpc_url, timeout=120) as client:
        for task in tasks:
            result |= scores(client, task, data, limit)
    return result


def format_table(changes: list[Change]) -> str:
    """Format changes as a text table."""
    lines = ["metric                fp32     int8     loss ± standard error   questions"]
    lines += [
        f"{c.metric:20} {c.before:7.4f}  {c.after:7.4f}  {c.loss:+.4f} ± {c.standard_error:.4f} {c.questions:15}"
        for c in changes
    ]
    return "\n".join(lines)


def to_json(changes: list[Change]) -> str:
    """Serialize changes as JSON."""
    return json.dumps([asdict(change) for change in changes], indent=1) + "\n"
