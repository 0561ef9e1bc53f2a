"""Requests to the endpoints and what their answers mean; no connection is opened here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from albef.serving import protocol
from albef.serving.protocol import ModelSpec

T = TypeVar("T")
Picture = str | Path | bytes
"""The path of an image file, or what is in it."""


class ServingError(OSError):
    """The server gave no answer."""


class InvalidRequestError(ServingError, ValueError):
    """The server refused the question; the message says what is wrong with it."""


@dataclass(frozen=True)
class Match:
    """One answer of retrieval: the path of an image or a caption, and how well it fits."""

    id: str
    score: float


@dataclass(frozen=True)
class Answer:
    """One answer to a question about a picture."""

    text: str
    probability: float


@dataclass(frozen=True)
class Grounded:
    """Where in a picture an expression is.

    Attributes:
        heat: ``(G, G)``, a value a patch.
        box: x, y, width, height in pixels of the picture.
    """

    heat: NDArray[np.float32]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how to read its answer.

    Attributes:
        arrays: Inputs by name.
        read: From the outputs by name to one answer a row.
    """

    spec: ModelSpec
    arrays: dict[str, NDArray[Any]]
    read: Callable[[dict[str, NDArray[Any]]], list[T]]


def file_of(image: Picture) -> bytes:
    """The bytes of an image.

    Raises:
        InvalidRequestError: If the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{image}: cannot read the picture ({error.strerror})") from error


def column(values: Sequence[bytes]) -> NDArray[Any]:
    """BYTES of a request ``(B, 1)``."""
    if not values:
        raise InvalidRequestError("give at least one text or image")
    return np.array(list(values), dtype=np.object_).reshape(len(values), 1)


def _shared(rows: int, value: int | bool) -> NDArray[Any]:
    """A value that all rows of a request share."""
    if isinstance(value, bool):
        return np.full((rows, 1), value, dtype=np.bool_)
    if not -(2**31) <= value < 2**31:
        raise InvalidRequestError(f"'k' is {value}, which is no 32-bit number")
    return np.full((rows, 1), value, dtype=np.int32)


def retrieval(name: str, values: Sequence[bytes], k: int, rerank: bool) -> Call[list[Match]]:
    """Ask retrieval by texts or images, as ``name`` says."""

    def read(outputs: dict[str, NDArray[Any]]) -> list[list[Match]]:
        ids, scores = outputs[protocol.ENDPOINT_IDS], outputs[protocol.ENDPOINT_SCORES]
        return [
            [Match(key.decode(), float(score)) for key, score in zip(row, line, strict=True)]
            for row, line in zip(ids, scores, strict=True)
        ]

    queries = column(values)
    arrays = {
        name: queries,
        protocol.ENDPOINT_K: _shared(len(queries), int(k)),
        protocol.ENDPOINT_RERANK: _shared(len(queries), bool(rerank)),
    }
    return Call(protocol.RETRIEVAL, arrays, read)


def query(text: str | None, image: Picture | None) -> tuple[str, list[bytes]]:
    """The one input that a query of retrieval has.

    Raises:
        InvalidRequestError: If it has both or neither, or the file cannot be read.
    """
    if (text is None) == (image is None):
        raise InvalidRequestError(f"give exactly one of text and image, not {'neither' if text is None else 'both'}")
    if text is not None:
        return protocol.ENDPOINT_TEXT, [text.encode()]
    assert image is not None
    return protocol.ENDPOINT_IMAGE, [file_of(image)]


def _pair(image: Picture, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The inputs of texts about one image."""
    words = column([text.encode() for text in texts])
    return {protocol.ENDPOINT_IMAGE: column([file_of(image)] * len(words)), protocol.ENDPOINT_TEXT: words}


def vqa(
    image: Picture, questions: Sequence[str], k: int, candidates: Sequence[str] | None, generate: bool | None
) -> Call[list[Answer]]:
    """Ask questions about an image."""

    def read(outputs: dict[str, NDArray[Any]]) -> list[list[Answer]]:
        answers, probabilities = outputs[protocol.ENDPOINT_ANSWERS], outputs[protocol.ENDPOINT_PROBABILITIES]
        return [
            [Answer(a.decode(), float(p)) for a, p in zip(row, line, strict=True) if a]
            for row, line in zip(answers, probabilities, strict=True)
        ]

    arrays = _pair(image, questions)
    rows = len(questions)
    arrays[protocol.ENDPOINT_K] = _shared(rows, int(k))
    if candidates is not None:
        given = column([text.encode() for text in candidates]).T
        arrays[protocol.ENDPOINT_CANDIDATES] = np.repeat(given, rows, axis=0)
    if generate is not None:
        arrays[protocol.ENDPOINT_GENERATE] = _shared(rows, bool(generate))
    return Call(protocol.VQA, arrays, read)


def entailment(image: Picture, hypotheses: Sequence[str]) -> Call[dict[str, float]]:
    """Ask whether an image entails some hypotheses."""

    def read(outputs: dict[str, NDArray[Any]]) -> list[dict[str, float]]:
        labels, probabilities = outputs[protocol.ENDPOINT_LABELS], outputs[protocol.ENDPOINT_PROBABILITIES]
        return [
            {label.decode(): float(p) for label, p in zip(row, line, strict=True)}
            for row, line in zip(labels, probabilities, strict=True)
        ]

    return Call(protocol.ENTAILMENT, _pair(image, hypotheses), read)


def grounding(image: Picture, expressions: Sequence[str], boxes: Sequence[Sequence[float]] | None) -> Call[Grounded]:
    """Ask where in an image some expressions are."""

    def read(outputs: dict[str, NDArray[Any]]) -> list[Grounded]:
        heat, chosen = outputs[protocol.ENDPOINT_HEAT], outputs[protocol.ENDPOINT_BOX]
        return [
            Grounded(map_, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))
            for map_, box in zip(heat, chosen, strict=True)
        ]

    arrays = _pair(image, expressions)
    if boxes is not None:
        given = np.asarray(boxes, dtype=np.float32)
        if given.ndim != 2 or given.shape[1] != 4:
            raise InvalidRequestError(f"boxes have shape {given.shape}, expected some x, y, width, height")
        arrays[protocol.ENDPOINT_BOXES] = np.stack([given] * len(expressions))
    return Call(protocol.GROUNDING, arrays, read)
