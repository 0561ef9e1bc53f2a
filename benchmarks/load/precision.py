"""Graphs in smaller numbers: how much faster, and what the tasks lose by them."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from albef.config import Config
from albef.data.boxes import iou
from albef.data.files import image_root
from albef.data.schema import read_list
from albef.evaluation.vqa_metric import vqa_accuracy
from albef.export import repository as repositories
from albef.export.session import GraphError, open_session
from albef.serving import calls, contract
from benchmarks.load.graphs import inputs_of
from benchmarks.load.local import Graph, Local
from benchmarks.load.variants import VARIANTS, tiled

HIT = 0.5
"""Overlap with the true box, above which an expression counts as found."""
Scores = list[float]
Scorer = Callable[[Local, Path, Path, int | None], dict[str, Scores]]


def _retrieval(local: Local, lists: Path, images: Path, limit: int | None) -> dict[str, Scores]:
    rows = read_list(lists / "retrieval_test.json")[:limit]
    by_text, by_image = [], []
    for row in rows:
        texts = [text.encode() for text in row["caption"]]
        found = local.ask(calls.retrieval(contract.ENDPOINT_TEXT, texts, 1, True))
        by_text += [float(best[0].id == row["image"]) for best in found]
        (best,) = local.ask(calls.retrieval(contract.ENDPOINT_IMAGE, [(images / row["image"]).read_bytes()], 1, True))
        by_image.append(float(best[0].id in row["caption"]))
    return {"image R@1": by_text, "text R@1": by_image}


def _vqa(local: Local, lists: Path, images: Path, limit: int | None) -> dict[str, Scores]:
    scores = []
    for row in read_list(lists / "vqa_test.json")[:limit]:
        (found,) = local.ask(calls.vqa(images / row["image"], [row["question"]], 1, None, None))
        scores.append(vqa_accuracy(found[0].text, row["answer"]))
    return {"VQA accuracy": scores}


def _entailment(local: Local, lists: Path, images: Path, limit: int | None) -> dict[str, Scores]:
    scores = []
    for row in read_list(lists / "ve_test.json")[:limit]:
        (found,) = local.ask(calls.entailment(images / row["image"], [row["sentence"]]))
        scores.append(float(max(found, key=lambda label: found[label]) == row["label"]))
    return {"entailment accuracy": scores}


def _grounding(local: Local, lists: Path, images: Path, limit: int | None) -> dict[str, Scores]:
    known = json.loads((lists / "grounding_boxes.json").read_text(encoding="utf-8"))
    scores = []
    for row in read_list(lists / "grounding_test.json")[:limit]:
        proposals = known["proposals"][row["image"]]
        (found,) = local.ask(calls.grounding(images / row["image"], [row["text"]], proposals))
        scores.append(float(iou(found.box, known["refs"][str(row["ref_id"])]["box"]) > HIT))
    return {"grounding accuracy": scores}


SCORERS: dict[str, Scorer] = {
    "retrieval": _retrieval,
    "vqa": _vqa,
    "entailment": _entailment,
    "grounding": _grounding,
}


def make(repository: Path, variant: str, tasks: Sequence[str], out: Path) -> dict[str, Path]:
    """Write the graphs of some tasks as a variant below ``out``, as the export stage lays them out; by their names.

    A graph that ONNX Runtime does not load as this variant stays in fp32.
    """
    files = {}
    for task in tasks:
        (out / task).mkdir(parents=True)
        for graph in contract.GRAPHS[task](contract.GraphSizes(1, 1, 1, 1)):
            name = contract.model_name(task, graph)
            source, files[name] = repository / name / "1" / "model.onnx", out / task / f"{graph}.onnx"
            if variant == "fp32":
                shutil.copyfile(source, files[name])
            else:
                VARIANTS[variant](source, files[name])
                try:
                    open_session(files[name])
                except GraphError as error:
                    print(f"{name}: stays in fp32, as {variant} does not load: {str(error)[-200:]}", file=sys.stderr)
                    shutil.copyfile(source, files[name])
    return files


def latencies(
    repository: Path, files: dict[str, Path], inputs: dict[str, list[Any]], batches: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Of each graph and batch, the variant's time beside that of the repository's own graph, run by run in turn."""
    for name, rows in inputs.items():
        own, other = Graph(repository / name, 1), Graph(repository / name, 1, files[name])
        outputs = [output.name for output in own.session.get_outputs()]
        for batch in batches:
            feeds, times = tiled(rows[0], batch), ([], [])  # type: tuple[dict[str, Any], tuple[Scores, Scores]]
            for number in range(-1, rounds):
                for side, graph in enumerate((own, other)):
                    began = time.perf_counter()
                    graph.run(feeds, outputs)
                    if number >= 0:  # the first run allocates
                        times[side].append(time.perf_counter() - began)
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
    """Every task's metric with each variant, on the test lists; the gallery is encoded anew with its graphs."""
    lists, images = artifacts / "validated" / "lists", artifacts / "data"
    plain: dict[str, Scores] = {}
    for variant in ("fp32", *variants):
        with tempfile.TemporaryDirectory(prefix="albef-precision-") as folder:
            make(repository, variant, tasks, Path(folder) / "export")
            out = Path(folder) / "repository"
            repositories.run(config, Path(folder) / "export", lists, images, artifacts / "tokenizer", out)
            for task in tasks:
                for metric, scores in SCORERS[task](Local(out, task), lists, image_root(images), limit).items():
                    plain.setdefault(metric, scores)
                    lost = np.array(plain[metric]) - np.array(scores)
                    yield {
                        "variant": variant,
                        "metric": metric,
                        "questions": len(scores),
                        "value": float(np.mean(scores)),
                        "loss": float(lost.mean()),
                        "standard_error": float(lost.std(ddof=1) / np.sqrt(len(lost))) if len(lost) > 1 else 0.0,
                    }


def measure(
    repository: Path,
    kinds: Sequence[str],
    tasks: Sequence[str],
    variants: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    size: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    """The speed of each variant's graphs, on inputs that the endpoints give them."""
    inputs = inputs_of(repository, kinds, 1, size)
    for variant in variants:
        with tempfile.TemporaryDirectory(prefix="albef-precision-") as folder:
            files = make(repository, variant, tasks, Path(folder) / "export")
            for result in latencies(repository, files, inputs, batches, rounds):
                yield {"variant": variant, **result}


SPEED = ("variant", "graph", "batch", "fp32 ms", "ms", "times as fast", "file")
LOSS = ("variant", "metric", "questions", "value", "loss ± standard error")


def speed_row(result: dict[str, Any]) -> list[Any]:
    """A line of the table of speeds."""
    times = [f"{result[key]:.4g}" for key in ("fp32_ms", "variant_ms")]
    gain = f"{result['speedup']:.2f}"
    return [result["variant"], result["graph"], result["batch"], *times, gain, f"{result['size']:.0%}"]


def loss_row(result: dict[str, Any]) -> list[Any]:
    """A line of the table of losses."""
    loss = f"{result['loss']:+.4f} ± {result['standard_error']:.4f}"
    return [result["variant"], result["metric"], result["questions"], f"{result['value']:.4f}", loss]
