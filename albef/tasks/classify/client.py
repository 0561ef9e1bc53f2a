"""Client of the classification endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from albef.serving import protocol
from albef.serving.requests import GRAY_PIXEL, Array, ImageInput, Request, column, image_bytes, text_column
from albef.tasks.classification_client import Labels, best_first, read
from albef.tasks.classification_client import accepted as accepted
from albef.tasks.classification_client import format_answer as format_answer
from albef.tasks.classify import spec


def request(image: ImageInput, labels: Sequence[str], templates: Sequence[str] | None = None) -> Request[Labels]:
    """Build a request to classify an image.

    Args:
        labels: Labels to choose from.
        templates: Texts with ``{}`` in place of the label; by default the label alone.

    Raises:
        InvalidRequestError: If the file cannot be read or there is no label.
    """
    arrays = {protocol.IMAGE: column([image_bytes(image)]), protocol.LABELS: text_column(labels).T}
    if templates is not None:
        arrays[spec.TEMPLATES] = text_column(templates).T
    return Request(spec.ENDPOINT, arrays, _read)


def _read(outputs: dict[str, Array]) -> list[Labels]:
    return [best_first(answer) for answer in read(outputs)]


def from_arguments(args: argparse.Namespace) -> Request[Labels]:
    """Build the request of ``albef ask classify``."""
    return request(args.image, args.labels, args.templates)


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[Labels]:
    """Build the request of a probe (`albef.serving.probes`), whose text has labels between commas."""
    return request(image or GRAY_PIXEL, [label.strip() for label in (text or "").split(",")])
