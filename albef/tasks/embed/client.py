"""Client of the embedding endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from albef.serving.requests import Array, ImageInput, Request, texts_or_images
from albef.tasks.embed import spec


def request(texts: Sequence[str] | None = None, images: Sequence[ImageInput] | None = None) -> Request[Array]:
    """Build a request with texts or images.

    Raises:
        InvalidRequestError: If both or neither are given, or a file cannot be read.
    """
    return Request(spec.ENDPOINT, texts_or_images(texts, images), _read)


def _read(outputs: dict[str, Array]) -> list[Array]:
    return list(outputs[spec.EMBEDDING])


def from_arguments(args: argparse.Namespace) -> Request[Array]:
    """Build the request of ``albef ask embed``."""
    return request(*([value] if value is not None else None for value in (args.text, args.image)))


def format_answer(answer: Array) -> str:
    """Format features as numbers with spaces between them."""
    return " ".join(f"{value:.6f}" for value in answer)


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[Array]:
    """Build the request of a probe (`albef.serving.probes`), of the image if there is one."""
    return request([text or ""]) if image is None else request(images=[image])
