"""Requests to the endpoints and parsers of their answers; opens no connection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from albef.serving import protocol
from albef.serving.protocol import ModelSpec
from albef.tasks import registry

T = TypeVar("T")
Array = NDArray[Any]
ImageInput = str | Path | bytes
"""Path or content of an image file."""
GRAY_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55000000"
    "0a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)
"""Tiny image file (PNG), for probes."""


class ServingError(OSError):
    """The server gave no answer."""


class InvalidRequestError(ServingError, ValueError):
    """The request is invalid; the message states the reason."""


@dataclass(frozen=True)
class Match:
    """Match of a retrieval query.

    Attributes:
        id: Id of an image, or a caption.
        score: Match probability; cosine similarity if the answers were not re-ranked.
    """

    id: str
    score: float


class RetrievalOptions(TypedDict, total=False):
    """Options of a retrieval request; by default those of the endpoint.

    Attributes:
        k: Maximum number of matches.
        rerank: Whether to re-rank the shortlist with the ITM head.
        where: Condition on the metadata, such as ``year >= 2020 AND source = 'wiki'``.
        min_score: Leave out matches with lower scores.
        offset: Matches to skip.
        distinct: Leave out matches whose similarity to a nearer one is at least this.
        text_weight: Weight of the text in a query by text and image, 0 to 1.
    """

    k: int | None
    rerank: bool | None
    where: str | None
    min_score: float | None
    offset: int | None
    distinct: float | None
    text_weight: float | None


@dataclass(frozen=True)
class Answer:
    """Answer to a question about an image."""

    text: str
    probability: float


@dataclass(frozen=True)
class Grounded:
    """Location of an expression in an image.

    Attributes:
        heat: Heat map ``(G, G)``, one value per patch.
        box: x, y, width, height in pixels of the image.
    """

    heat: NDArray[np.float32]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Request(Generic[T]):
    """Request to an endpoint with the parser of its answer.

    Attributes:
        arrays: Inputs by name.
        read: Converts outputs by name to one answer per row.
    """

    spec: ModelSpec
    arrays: dict[str, Array]
    read: Callable[[dict[str, Array]], list[T]]


class Asker(Protocol):
    """Anything that answers requests: a client, or an endpoint in this process."""

    def ask(self, request: Request[T]) -> list[T]:
        """Return one answer per row of a request."""


def image_bytes(image: ImageInput) -> bytes:
    """Return the content of an image file.

    Raises:
        InvalidRequestError: If the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{image}: cannot read the image ({error.strerror})") from error


def column(values: Sequence[bytes]) -> Array:
    """Return a BYTES input ``(B, 1)``.

    Raises:
        InvalidRequestError: If there are no values.
    """
    if not values:
        raise InvalidRequestError("give at least one text or image")
    return np.array(list(values), dtype=np.object_).reshape(len(values), 1)


def text_column(texts: Sequence[str]) -> Array:
    """Return texts as a BYTES input ``(B, 1)``.

    Raises:
        InvalidRequestError: If there are none, or a single text is given instead of several.
    """
    if isinstance(texts, str):
        raise InvalidRequestError(f"give a list of texts, not the single text {texts[:40]!r}")
    return column([text.encode() for text in texts])


def shared_value(rows: int, value: bool | int | float | str, name: str = protocol.K) -> Array:
    """Return an input with the same value in all rows."""
    if isinstance(value, str):
        return column([value.encode()] * rows)
    if isinstance(value, bool | float):
        return np.full((rows, 1), value, dtype=np.bool_ if isinstance(value, bool) else np.float32)
    if not -(2**31) <= value < 2**31:
        raise InvalidRequestError(f"'{name}' is {value}, expected a 32-bit integer")
    return np.full((rows, 1), value, dtype=np.int32)


def image_and_texts(image: ImageInput, texts: Sequence[str]) -> dict[str, Array]:
    """Return the inputs for several texts about one image."""
    words = text_column(texts)
    return {protocol.IMAGE: column([image_bytes(image)] * len(words)), protocol.TEXT: words}


def texts_or_images(texts: Sequence[str] | None, images: Sequence[ImageInput] | None) -> dict[str, Array]:
    """Return the inputs for several texts or several images.

    Raises:
        InvalidRequestError: If both or neither are given, or a file cannot be read.
    """
    if texts is not None and images is None:
        return {protocol.TEXT: text_column(texts)}
    if images is not None and texts is None:
        return {protocol.IMAGE: column([image_bytes(image) for image in images])}
    raise InvalidRequestError(f"give exactly one of text and image, not {'neither' if texts is None else 'both'}")


def build(endpoint: str, **arguments: Any) -> Request[Any]:
    """Build a request to an endpoint.

    Args:
        arguments: Arguments of ``request`` in the ``client`` module of the endpoint.

    Raises:
        UnknownTaskError: If no endpoint has this name.
        InvalidRequestError: If the arguments are not a valid request.
    """
    try:
        request: Request[Any] = registry.client(endpoint).request(**arguments)
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"a text has a character that is not Unicode ({error.reason})") from error
    return request


def plain(value: Any) -> Any:
    """Return an answer of the types that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
