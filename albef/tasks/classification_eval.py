"""Accuracy of visual entailment and NLVR2 (paper section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from albef import distributed
from albef.config import ClassificationConfig, section_of
from albef.data.images import ImageSource, StoredImage
from albef.data.lists import Rows
from albef.data.schema import NLVR_LABELS, VE_LABELS, images_of, label_of
from albef.inference.encode import distinct, evaluating, keys_values_by_image, words_of
from albef.models.albef import ALBEF
from albef.tasks.job import Job, spaced

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@dataclass(frozen=True)
class ClassificationSet:
    """Evaluation split: sentences about one or two images, and their classes.

    Args:
        images: Images of each sentence.
        names: Paths of these images as written in the list.
        labels: Class index of each sentence.
        classes: Names of the classes.
    """

    images: list[tuple[StoredImage, ...]]
    names: list[tuple[str, ...]]
    sentences: list[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, rows: Rows) -> ClassificationSet:
        """Return the split of a ``ve_*`` or ``nlvr_*`` list."""
        records = list(rows)
        return cls(
            [tuple(rows.images(row, record)) for row, record in enumerate(records)],
            [tuple(images_of(r)) for r in records],
            [r["sentence"] for r in records],
            np.array([label_of(r) for r in records], dtype=np.int64),
            NLVR_LABELS if records and "images" in records[0] else VE_LABELS,
        )


@dataclass(frozen=True)
class ClassificationResult:
    """Metrics, and class probabilities ``(rows, classes)``."""

    metrics: dict[str, float]
    probabilities: NDArray[np.float32]


def evaluate(
    model: ALBEF, split: ClassificationSet, encoder: Encoder, config: ClassificationConfig
) -> ClassificationResult:
    """Classify a split and compute its accuracy.

    Metrics are ``accuracy`` over all rows and ``accuracy_CLASS`` of each class.
    """
    probabilities = classify(model, *distinct(split.images), split.sentences, encoder, config, config.train.num_workers)
    return ClassificationResult(_metrics(probabilities, split), probabilities)


@torch.no_grad()
def classify(
    model: ALBEF,
    images: Sequence[ImageSource],
    image_rows: Sequence[tuple[int, ...]],
    sentences: Sequence[str],
    encoder: Encoder,
    config: ClassificationConfig,
    workers: int = 0,
) -> NDArray[np.float32]:
    """Return the class probabilities ``(rows, classes)`` of sentences.

    Each image is encoded once per batch; all its sentences share the keys and values. The ranks of a process group
    share the work.

    Args:
        image_rows: Indices of the one or two images of each sentence.
        workers: Processes that load images.
    """
    probabilities: dict[int, NDArray[np.float32]] = {}
    with evaluating(model, config.train) as device:
        fusion, student = model.student.fusion, model.student
        step = config.evaluate.batch_size
        for rows, keys_values, places in keys_values_by_image(model, images, image_rows, step, workers):
            ids, mask = words_of([sentences[row] for row in rows], encoder, config.train, device)
            fused = fusion(student.text(ids, mask), mask, keys_values, image_rows=places, cls_only=True)
            logits = student.cls_head(fused[:, 0])
            probabilities |= zip(rows, logits.float().softmax(dim=-1).cpu().numpy(), strict=True)
    merged = distributed.merge(probabilities)
    return np.array([merged[row] for row in range(len(sentences))]).reshape(-1, model.architecture.classes)


def _metrics(probabilities: NDArray[np.float32], split: ClassificationSet) -> dict[str, float]:
    correct = probabilities.argmax(axis=1) == split.labels
    metrics = {"accuracy": float(correct.mean())}
    for index, name in enumerate(split.classes):
        if (rows := split.labels == index).any():
            metrics[f"accuracy_{name.lower()}"] = float(correct[rows].mean())
    return metrics


def run(job: Job) -> None:
    """Write ``metrics.json``, ``plots/confusion.csv``, ``shown/examples.json`` and ``shown/predictions.json``.

    The metric ``chance`` is the accuracy of always predicting the most frequent class.
    """
    split = ClassificationSet.of(job.test_rows())
    result = evaluate(job.model, split, job.encoder, section_of(job.config, job.task))
    actual = [split.classes[label] for label in split.labels]
    predicted = [split.classes[label] for label in result.probabilities.argmax(axis=1)]
    chance = float(np.bincount(split.labels).max() / len(split.labels))
    job.write_csv("confusion.csv", "actual,predicted", list(zip(actual, predicted, strict=True)))
    best = zip(predicted, result.probabilities.max(axis=1).tolist(), actual, strict=True)
    job.write_predictions((answer, p, float(answer == label)) for answer, p, label in best)
    job.write_json("shown/examples.json", {"classes": list(split.classes), "examples": examples(split, result)})
    job.write_metrics({**result.metrics, "chance": chance})


def examples(split: ClassificationSet, result: ClassificationResult) -> list[dict[str, object]]:
    """Return a few sentences with the probabilities of all classes."""
    return [
        {
            "images": list(split.names[row]),
            "sentence": split.sentences[row],
            "label": split.classes[split.labels[row]],
            "probabilities": [round(float(p), 4) for p in result.probabilities[row]],
        }
        for row in spaced(len(split.sentences))
    ]
