"""Client of the retrieval endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from albef.serving import protocol
from albef.serving.requests import (
    Array,
    Asker,
    ImageInput,
    InvalidRequestError,
    Match,
    Request,
    column,
    image_bytes,
    shared_value,
    text_column,
)
from albef.serving.tables import ranked
from albef.tasks.retrieval import spec

if TYPE_CHECKING:
    from albef.data.lists import Lists


_OPTIONS = spec.ENDPOINT.inputs[2:]
_TYPES: dict[str, type] = {"INT32": int, "BOOL": bool, "FP32": float, "BYTES": str}


def request(
    texts: Sequence[str] | None = None,
    images: Sequence[ImageInput] | None = None,
    k: int | None = None,
    rerank: bool | None = None,
    where: str | None = None,
    min_score: float | None = None,
    offset: int | None = None,
    distinct: float | None = None,
    text_weight: float | None = None,
) -> Request[list[Match]]:
    """Build a request with text queries, image queries, or queries by both.

    Args:
        k, rerank, where, min_score, offset, distinct, text_weight: See `albef.serving.requests.RetrievalOptions`.

    Raises:
        InvalidRequestError: If there are neither texts nor images, there are different numbers of them, or a file
            cannot be read.
    """
    given = locals()
    if texts is None and images is None:
        raise InvalidRequestError("give a text, an image or both, not neither")
    if texts is not None and images is not None and len(texts) != len(images):
        raise InvalidRequestError(f"give as many texts as images, not {len(texts)} and {len(images)}")
    arrays = {}
    if texts is not None:
        arrays[protocol.TEXT] = text_column(texts)
    if images is not None:
        arrays[protocol.IMAGE] = column([image_bytes(image) for image in images])
    rows = len(next(iter(arrays.values())))
    for tensor in _OPTIONS:  # their arguments have the same names
        if given[tensor.name] is not None:
            arrays[tensor.name] = shared_value(rows, _TYPES[tensor.dtype](given[tensor.name]), tensor.name)
    return Request(spec.ENDPOINT, arrays, _read)


def _read(outputs: dict[str, Array]) -> list[list[Match]]:
    return [
        [Match(key.decode(), float(score)) for key, score in zip(row, scores, strict=True) if key]
        for row, scores in zip(outputs[spec.IDS], outputs[spec.SCORES], strict=True)
    ]


def from_arguments(args: argparse.Namespace) -> Request[list[Match]]:
    """Build the request of ``albef ask retrieval``."""
    texts, images = [args.text] if args.text is not None else None, [args.image] if args.image else None
    return request(texts, images, **{tensor.name: getattr(args, tensor.name) for tensor in _OPTIONS})


def format_answer(answer: list[Match]) -> str:
    """Format an answer as a table of rank, score and id."""
    table = ranked(((match.score, match.id) for match in answer), "score")
    scores = [match.score for match in answer]
    if scores != sorted(scores, reverse=True):
        table += "\n(scores are probabilities of a match; the order counts the similarity of image and text, too)"
    return table


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[list[Match]]:
    """Build the request of a probe (`albef.serving.probes`)."""
    return request([text] if text is not None else None, [image] if image is not None else None, k=k)


def accepted(answer: list[Match]) -> list[str]:
    """Return the texts of an answer; a probe expects one of them."""
    return [match.id for match in answer]


def score(row: dict[str, Any], data: Lists, client: Asker) -> dict[str, list[float]]:
    """Return the scores of the answers to a row of the test list, by metric."""
    by_text = client.ask(request(texts=row["caption"], k=1))
    (best,) = client.ask(request(images=[data.images.find(row["image"]).read()], k=1))
    return {
        "image R@1": [float(matches[0].id == row["image"]) for matches in by_text],
        "text R@1": [float(best[0].id in row["caption"])],
    }
