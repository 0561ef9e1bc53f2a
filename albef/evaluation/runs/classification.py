"""Visual entailment and NLVR2: accuracy, over all and by class, and the confusion of classes."""

from __future__ import annotations

import numpy as np

from albef.evaluation.classification import ClassificationResult, StatementSet, evaluate
from albef.evaluation.job import Job, spaced

_PREFIXES = {"entailment": "ve", "nlvr2": "nlvr"}


def run(job: Job) -> None:
    """Write ``metrics.json``, ``confusion.csv`` and ``shown/examples.json``."""
    split = StatementSet.read(job.lists / f"{_PREFIXES[job.task]}_test.json", job.images)
    result = evaluate(job.model, split, job.encoder, getattr(job.config.tasks, job.task))
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
