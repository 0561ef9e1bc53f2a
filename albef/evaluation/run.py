"""The evaluation stage: a fine-tuned model on its test split, with what plots and the report need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from albef.config import Config
from albef.data.files import image_root
from albef.data.tokenizer import Encoder
from albef.evaluation.retrieval import RetrievalResult, RetrievalSet, evaluate
from albef.model import checkpoint

_EXAMPLES = 8
_SHOWN = 5


def run(config: Config, task: str, model: Path, lists: Path, images: Path, tokenizer: Path, out: Path) -> None:
    """Evaluate ``task`` and write ``metrics.json``, ``recall.csv`` and ``examples.json``.

    Raises:
        ValueError: If the task has no evaluation.
    """
    evaluations: dict[str, Callable[[], None]] = {
        "retrieval": lambda: _retrieval(config, model, lists, images, tokenizer, out)
    }
    if task not in evaluations:
        raise ValueError(f"no evaluation for task {task!r}; known are {', '.join(evaluations)}")
    out.mkdir(parents=True, exist_ok=True)
    evaluations[task]()


def _retrieval(config: Config, model: Path, lists: Path, images: Path, tokenizer: Path, out: Path) -> None:
    net, _ = checkpoint.load(model / "model.pth")
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    split = RetrievalSet.read(lists / "retrieval_test.json", image_root(images))
    result = evaluate(net, split, Encoder.from_file(tokenizer / "tokenizer.json"), config.tasks.retrieval)
    (out / "metrics.json").write_text(json.dumps(result.metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    rows = ["direction,stage,k,recall"]
    for name, value in result.metrics.items():
        stage, _, rest = ("itc", "", name[4:]) if name.startswith("itc_") else ("reranked", "", name)
        direction, _, k = rest.partition("_r")
        if direction in ("tr", "ir"):
            rows.append(f"{'image to text' if direction == 'tr' else 'text to image'},{stage},{k},{value:.4f}")
    (out / "recall.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (out / "examples.json").write_text(json.dumps(examples(split, result), indent=1) + "\n", encoding="utf-8")


def _top(scores: NDArray[np.float32]) -> list[tuple[int, float]]:
    order = np.argsort(-scores, kind="stable")[:_SHOWN]
    return [(int(i), round(float(scores[i]), 4)) for i in order]


def examples(split: RetrievalSet, result: RetrievalResult) -> dict[str, list[dict[str, object]]]:
    """A few queries of each direction, evenly spaced over the split, with their best answers."""
    texts = np.linspace(0, len(split.texts) - 1, min(_EXAMPLES, len(split.texts))).astype(int)
    rows = np.linspace(0, len(split.names) - 1, min(_EXAMPLES, len(split.names))).astype(int)
    return {
        "text_to_image": [
            {
                "query": split.texts[t],
                "target": split.names[split.image_of_text[t]],
                "ranked": [{"image": split.names[i], "score": s} for i, s in _top(result.text_to_image[:, t])],
            }
            for t in texts
        ],
        "image_to_text": [
            {
                "query": split.names[i],
                "target": [split.texts[t] for t in np.flatnonzero(split.image_of_text == i)],
                "ranked": [{"caption": split.texts[t], "score": s} for t, s in _top(result.image_to_text[i])],
            }
            for i in rows
        ],
    }
