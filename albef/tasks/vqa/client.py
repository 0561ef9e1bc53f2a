"""Client of the VQA endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from albef.serving import protocol
from albef.serving.requests import (
    GRAY_PIXEL,
    Answer,
    Array,
    Asker,
    ImageInput,
    Request,
    column,
    image_and_texts,
    shared_value,
)
from albef.serving.tables import ranked
from albef.tasks.vqa import spec

if TYPE_CHECKING:
    from albef.data.lists import Lists


def request(
    image: ImageInput,
    questions: Sequence[str],
    k: int | None = None,
    candidates: Sequence[str] | None = None,
    generate: bool | None = None,
) -> Request[list[Answer]]:
    """Build a request with questions about an image.

    Args:
        k: Maximum number of answers; by default that of the endpoint.
        candidates: Answers to choose from; by default the list of the endpoint.
        generate: Whether to generate answers; by default the setting of the endpoint.

    Raises:
        InvalidRequestError: If the file cannot be read or there is no question.
    """
    arrays = image_and_texts(image, questions)
    if k is not None:
        arrays[protocol.K] = shared_value(len(questions), int(k))
    if candidates is not None:
        row = column([text.encode() for text in candidates]).T
        arrays[spec.CANDIDATES] = np.repeat(row, len(questions), axis=0)
    if generate is not None:
        arrays[spec.GENERATE] = shared_value(len(questions), bool(generate))
    return Request(spec.ENDPOINT, arrays, _read)


def _read(outputs: dict[str, Array]) -> list[list[Answer]]:
    return [
        # A generated answer may be empty, too, but its probability is above 0, unlike that of padding.
        [Answer(text.decode(), float(p)) for text, p in zip(row, probabilities, strict=True) if text or p]
        for row, probabilities in zip(outputs[spec.ANSWERS], outputs[protocol.PROBABILITIES], strict=True)
    ]


def from_arguments(args: argparse.Namespace) -> Request[list[Answer]]:
    """Build the request of ``albef ask vqa``."""
    return request(args.image, [args.text], args.k, args.candidates, args.generate or None)


def format_answer(answer: list[Answer]) -> str:
    """Format an answer as a table of rank, probability and text."""
    return ranked(((each.probability, each.text) for each in answer), "probability")


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[list[Answer]]:
    """Build the request of a probe (`albef.serving.probes`)."""
    return request(image or GRAY_PIXEL, [text or ""], k)


def accepted(answer: list[Answer]) -> list[str]:
    """Return the texts of an answer; a probe expects one of them."""
    return [each.text for each in answer]


def score(row: dict[str, Any], data: Lists, client: Asker) -> dict[str, list[float]]:
    """Return the scores of the answers to a row of the test list, by metric."""
    from albef.tasks.vqa.evaluate import vqa_accuracy  # imports torch

    (answers,) = client.ask(request(data.images.find(row["image"]).read(), [row["question"]], 1))
    return {"VQA accuracy": [vqa_accuracy(answers[0].text, row["answer"])]}
