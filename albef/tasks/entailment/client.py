"""Client of the visual entailment endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from albef.serving.requests import GRAY_PIXEL, Asker, ImageInput, Request, image_and_texts
from albef.tasks.classification_client import Labels, most_probable, read
from albef.tasks.classification_client import accepted as accepted
from albef.tasks.classification_client import format_answer as format_answer
from albef.tasks.entailment import spec

if TYPE_CHECKING:
    from albef.data.lists import Lists


def request(image: ImageInput, hypotheses: Sequence[str]) -> Request[Labels]:
    """Build a request with hypotheses about an image.

    Raises:
        InvalidRequestError: If the file cannot be read or there is no hypothesis.
    """
    return Request(spec.ENDPOINT, image_and_texts(image, hypotheses), read)


def from_arguments(args: argparse.Namespace) -> Request[Labels]:
    """Build the request of ``albef ask entailment``."""
    return request(args.image, [args.text])


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[Labels]:
    """Build the request of a probe (`albef.serving.probes`)."""
    return request(image or GRAY_PIXEL, [text or ""])


def score(row: dict[str, Any], data: Lists, client: Asker) -> dict[str, list[float]]:
    """Return the scores of the answers to a row of the test list, by metric."""
    (answer,) = client.ask(request(data.images.find(row["image"]).read(), [row["sentence"]]))
    return {"entailment accuracy": [float(most_probable(answer) == row["label"])]}
