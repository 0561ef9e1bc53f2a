"""Client side of the endpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from prompt_classification import spec

from albef.data.lists import Lists
from albef.serving import protocol
from albef.serving.requests import GRAY_PIXEL, Array, Asker, ImageInput, Request, column, image_bytes
from albef.serving.tables import ranked


def request(image: ImageInput, labels: Sequence[str] | None = None) -> Request[dict[str, float]]:
    """Build a request of an image."""
    arrays = {protocol.IMAGE: column([image_bytes(image)])}
    if labels is not None:
        arrays[protocol.LABELS] = np.array([[label.encode() for label in labels]], dtype=np.object_)
    return Request(spec.ENDPOINT, arrays, _read)


def _read(outputs: dict[str, Array]) -> list[dict[str, float]]:
    return [
        {label.decode(): float(p) for label, p in zip(labels, row, strict=True)}
        for labels, row in zip(outputs[protocol.LABELS], outputs[protocol.PROBABILITIES], strict=True)
    ]


def from_arguments(args: argparse.Namespace) -> Request[dict[str, float]]:
    """Build the request of ``albef ask prompt_classification``."""
    return request(args.image, args.labels)


def format_answer(answer: dict[str, float]) -> str:
    """Return an answer as a table."""
    return ranked(sorted(((p, label) for label, p in answer.items()), reverse=True), "probability")


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[dict[str, float]]:
    """Build the request of a probe."""
    return request(image or GRAY_PIXEL)


def accepted(answer: dict[str, float]) -> list[str]:
    """Return the likeliest label."""
    return [max(answer, key=lambda label: answer[label])]


def score(row: dict[str, Any], data: Lists, client: Asker) -> dict[str, list[float]]:
    """Return the scores of the answers to a row of the test list, by metric."""
    (answer,) = client.ask(request(data.images.find(row["image"]).read()))
    return {"accuracy": [float(accepted(answer)[0] == row["label"])]}
