"""Client of the retrieval endpoint: requests, answers, command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from albef.serving import protocol
from albef.serving.requests import Array, Asker, ImageInput, Match, Request, shared_value, texts_or_images
from albef.serving.tables import ranked
from albef.tasks.retrieval import spec

if TYPE_CHECKING:
    from albef.data.lists import Lists


def request(
    texts: Sequence[str] | None = None,
    images: Sequence[ImageInput] | None = None,
    k: int | None = None,
    rerank: bool | None = None,
) -> Request[list[Match]]:
    """Build a request with text queries or image queries.

    Args:
        k: Maximum number of matches; by default that of the endpoint.
        rerank: Whether to re-rank the shortlist with the ITM head; by default true.

    Raises:
        InvalidRequestError: If both or neither are given, or a file cannot be read.
    """
    arrays = texts_or_images(texts, images)
    (queries,) = map(len, arrays.values())
    if k is not None:
        arrays[protocol.K] = shared_value(queries, int(k))
    if rerank is not None:
        arrays[spec.RERANK] = shared_value(queries, bool(rerank))
    return Request(spec.ENDPOINT, arrays, _read)


def _read(outputs: dict[str, Array]) -> list[list[Match]]:
    return [
        [Match(key.decode(), float(score)) for key, score in zip(row, scores, strict=True)]
        for row, scores in zip(outputs[spec.IDS], outputs[spec.SCORES], strict=True)
    ]


def from_arguments(args: argparse.Namespace) -> Request[list[Match]]:
    """Build the request of ``albef ask retrieval``."""
    texts, images = [args.text] if args.text is not None else None, [args.image] if args.image else None
    return request(texts, images, args.k, not args.no_rerank)


def format_answer(answer: list[Match]) -> str:
    """Format an answer as a table of rank, score and id."""
    return ranked(((match.score, match.id) for match in answer), "score")


def probe(text: str | None, image: ImageInput | None, k: int) -> Request[list[Match]]:
    """Build the request of a probe (`albef.serving.probes`)."""
    return request([text] if text is not None else None, [image] if image is not None else None, k)


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
