"""Client of the NLVR2 endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from albef.serving import protocol
from albef.serving.requests import GRAY_PIXEL, Asker, ImageInput, Request, column, image_and_texts, image_bytes
from albef.tasks.classification_client import Labels, most_probable, read
from albef.tasks.classification_client import accepted as accepted
from albef.tasks.classification_client import format_answer as format_answer
from albef.tasks.nlvr2 import spec

if TYPE_CHECKING:
    from albef.data.lists import Lists


def request(first: ImageInput, second: ImageInput, statements: Sequence[str]) -> Request[Labels]:
    """Build a request with statements about two images.

    Raises:
        InvalidRequestError: If a file cannot be read or there is no statement.
    """
    arrays = image_and_texts(first, statements)
    arrays[protocol.SECOND_IMAGE] = column([image_bytes(second)] * len(statements))
    return Request(spec.ENDPOINT, arrays, read)


def from_arguments(args: argparse.Namespace) -> Request[Labels]:
    """Build the request of ``albef ask compare``."""
    first, second = args.images
    return request(first, second, [args.text])


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[Labels]:
    """Build the request of a probe (`albef.serving.probes`), which compares an image with itself."""
    return request(image or GRAY_PIXEL, image or GRAY_PIXEL, [text or ""])


def score(row: dict[str, Any], data: Lists, client: Asker) -> dict[str, list[float]]:
    """Return the scores of the answers to a row of the test list, by metric."""
    first, second = (data.images.find(name).read() for name in row["images"])
    (answer,) = client.ask(request(first, second, [row["sentence"]]))
    return {"NLVR2 accuracy": [float(most_probable(answer) == row["label"])]}
