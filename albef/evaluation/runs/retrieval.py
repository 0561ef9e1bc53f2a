"""Retrieval: recalls both ways, before and after re-ranking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from albef.evaluation.job import Job, spaced
from albef.evaluation.retrieval import RetrievalResult, RetrievalSet, evaluate

_SHOWN = 5
_DIRECTIONS = {"tr": "image to text", "ir": "text to image"}


def run(job: Job) -> None:
    """Write ``metrics.json``, ``recall.csv`` and ``shown/examples.json``."""
    split = RetrievalSet.read(job.lists / "retrieval_test.json", job.images)
    result = evaluate(job.model, split, job.encoder, job.config.tasks.retrieval)
    rows: list[tuple[object, ...]] = []
    for name, value in result.metrics.items():
        stage = "itc" if name.startswith("itc_") else "reranked"
        direction, _, k = name.removeprefix("itc_").partition("_r")
        if direction in _DIRECTIONS:
            rows.append((_DIRECTIONS[direction], stage, k, value))
    job.write_csv("recall.csv", "direction,stage,k,recall", rows)
    job.write_json("shown/examples.json", examples(split, result))
    job.write_metrics(result.metrics)


def _top(scores: NDArray[np.float32]) -> list[tuple[int, float]]:
    order = np.argsort(-scores, kind="stable")[:_SHOWN]
    return [(int(i), round(float(scores[i]), 4)) for i in order]


def examples(split: RetrievalSet, result: RetrievalResult) -> dict[str, list[dict[str, object]]]:
    """A few queries of each direction with their best answers."""
    return {
        "text_to_image": [
            {
                "query": split.texts[t],
                "target": split.names[split.image_of_text[t]],
                "ranked": [{"image": split.names[i], "score": s} for i, s in _top(result.text_to_image[:, t])],
            }
            for t in spaced(len(split.texts))
        ],
        "image_to_text": [
            {
                "query": split.names[i],
                "target": [split.texts[t] for t in np.flatnonzero(split.image_of_text == i)],
                "ranked": [{"caption": split.texts[t], "score": s} for t, s in _top(result.image_to_text[i])],
            }
            for i in spaced(len(split.names))
        ],
    }
