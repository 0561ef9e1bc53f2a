"""Accuracy of visual entailment and NLVR2 (paper section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from albef.config import ClassificationConfig, section_of
from albef.data.schema import NLVR_LABELS, VE_LABELS, images_of, label_of, read_list
from albef.inference.encode import by_image, evaluating, pixels_of, words_of
from albef.models.albef import ALBEF
from albef.tasks import registry
from albef.tasks.job import Job, spaced

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@dataclass(frozen=True)
class StatementSet:
    """Sentences with one picture or two, and their classes."""

    images: list[tuple[Path, ...]]
    names: list[tuple[str, ...]]
    sentences: list[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, image_root: Path) -> StatementSet:
        """Read a ``ve_*`` or ``nlvr_*`` list."""
        records = read_list(path)
        names = [tuple(images_of(r)) for r in records]
        return cls(
            [tuple(image_root / name for name in row) for row in names],
            names,
            [r["sentence"] for r in records],
            np.array([label_of(r) for r in records], dtype=np.int64),
            NLVR_LABELS if records and "images" in records[0] else VE_LABELS,
        )


@dataclass(frozen=True)
class ClassificationResult:
    """Metrics and the probabilities ``(rows, classes)`` they come from."""

    metrics: dict[str, float]
    probabilities: NDArray[np.float32]


@torch.no_grad()
def evaluate(model: ALBEF, split: StatementSet, encoder: Encoder, config: ClassificationConfig) -> ClassificationResult:
    """Accuracy, over all rows (``accuracy``) and of each class (``accuracy_CLASS``).

    A picture is encoded once a batch, however many sentences speak of it, and its keys and values are shared.
    """
    probabilities = np.zeros((len(split.sentences), len(split.classes)), dtype=np.float32)
    with evaluating(model, config.train) as device:
        fusion, student = model.student.fusion, model.student
        for rows, pictures in by_image(split.images, config.evaluate.batch_size):
            place = {path: index for index, path in enumerate(pictures)}
            keys_values = fusion.keys_values(student.vision(pixels_of(pictures, model.config.image_size, device)))
            ids, mask = words_of([split.sentences[row] for row in rows], encoder, config.train, device)
            looks = torch.tensor([[place[path] for path in split.images[row]] for row in rows], device=device)
            fused = fusion(student.text(ids, mask), mask, keys_values, image_rows=looks, cls_only=True)
            logits = student.cls_head(fused[:, 0])
            probabilities[rows] = logits.float().softmax(dim=-1).cpu().numpy()
    return ClassificationResult(_metrics(probabilities, split), probabilities)


def _metrics(probabilities: NDArray[np.float32], split: StatementSet) -> dict[str, float]:
    right = probabilities.argmax(axis=1) == split.labels
    metrics = {"accuracy": float(right.mean())}
    for index, name in enumerate(split.classes):
        if (rows := split.labels == index).any():
            metrics[f"accuracy_{name.lower()}"] = float(right[rows].mean())
    return metrics


def run(job: Job) -> None:
    """Write ``metrics.json``, ``confusion.csv`` and ``shown/examples.json``."""
    split = StatementSet.read(job.lists / f"{registry.spec(job.task).test_list}.json", job.images)
    result = evaluate(job.model, split, job.encoder, section_of(job.config, job.task))
    actual = [split.classes[label] for label in split.labels]
    predicted = [split.classes[label] for label in result.probabilities.argmax(axis=1)]
    chance = float(np.bincount(split.labels).max() / len(split.labels))
    job.write_csv("confusion.csv", "actual,predicted", list(zip(actual, predicted, strict=True)))
    job.write_json("shown/examples.json", {"classes": list(split.classes), "examples": examples(split, result)})
    job.write_metrics({**result.metrics, "chance": chance})


def examples(split: StatementSet, result: ClassificationResult) -> list[dict[str, object]]:
    """A few sentences with the probability of every class."""
    return [
        {
            "images": list(split.names[row]),
            "sentence": split.sentences[row],
            "label": split.classes[split.labels[row]],
            "probabilities": [round(float(p), 4) for p in result.probabilities[row]],
        }
        for row in spaced(len(split.sentences))
    ]
