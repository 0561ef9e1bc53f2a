"""Client of the visual entailment endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from albef.serving import protocol
from albef.serving.requests import GRAY_PIXEL, Array, Asker, ImageInput, Request, image_and_texts
from albef.serving.tables import ranked
from albef.tasks.entailment import spec

if TYPE_CHECKING:
    from albef.data.lists import Lists

Labels = dict[str, float]
"""Probabilities by label."""


def request(image: ImageInput, hypotheses: Sequence[str]) -> Request[Labels]:
    """Build a request with hypotheses about an image.

    Raises:
        InvalidRequestError: If the file cannot be read or there is no hypothesis.
    """
    return Request(spec.ENDPOINT, image_and_texts(image, hypotheses), _read)


def _read(outputs: dict[str, Array]) -> list[Labels]:
    return [
        {label.decode(): float(p) for label, p in zip(row, probabilities, strict=True)}
        for row, probabilities in zip(outputs[protocol.LABELS], outputs[protocol.PROBABILITIES], strict=True)
    ]


def from_arguments(args: argparse.Namespace) -> Request[Labels]:
    """Build the request of ``albef ask entailment``."""
    return request(args.image, [args.text])


def format_answer(answer: Labels) -> str:
    """Format an answer as a table of rank, probability and label."""
    return ranked(sorted(((p, label) for label, p in answer.items()), reverse=True), "probability")


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[Labels]:
    """Build the request of a probe (`albef.serving.probes`)."""
    return request(image or GRAY_PIXEL, [text or ""])


def accepted(answer: Labels) -> list[str]:
    """Return the label of an answer; a probe expects it."""
    return [_most_probable(answer)]


def _most_probable(answer: Labels) -> str:
    return max(answer, key=lambda label: answer[label])


def score(row: dict[str, Any], data: Lists, client: Asker) -> dict[str, list[float]]:
    """Return the scores of the answers to a row of the test list, by metric."""
    (answer,) = client.ask(request(data.images.find(row["image"]).read(), [row["sentence"]]))
    return {"entailment accuracy": [float(_most_probable(answer) == row["label"])]}
