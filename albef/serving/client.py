"""Typed gRPC clients of the endpoints, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

import numpy as np

from albef.serving import access, requests
from albef.serving.access import Tls
from albef.serving.requests import (
    Answer,
    Array,
    Grounded,
    ImageInput,
    InvalidRequestError,
    Match,
    Request,
    RetrievalOptions,
    ServingError,
)
from albef.serving.transport import (
    Attempts,
    BusyError,
    DeniedError,
    NoSuchEndpointError,
    ServerTimeoutError,
    ServerUnavailableError,
    channel_arguments,
    infer_arguments,
    read_answers,
    translated_errors,
    with_trace_context,
)

__all__ = [
    "AsyncClient",
    "BusyError",
    "Client",
    "DeniedError",
    "InvalidRequestError",
    "NoSuchEndpointError",
    "ServerTimeoutError",
    "ServerUnavailableError",
    "ServingError",
]

T = TypeVar("T")
DEFAULT_URL = "127.0.0.1:8001"


def _query(text: str | None, image: ImageInput | None, options: RetrievalOptions) -> Request[list[Match]]:
    texts, images = None if text is None else [text], None if image is None else [image]
    return requests.build("retrieval", texts=texts, images=images, **options)


def _questions(
    image: ImageInput,
    questions: Sequence[str],
    k: int | None,
    candidates: Sequence[str] | None,
    generate: bool | None,
) -> Request[list[Answer]]:
    return requests.build("vqa", image=image, questions=questions, k=k, candidates=candidates, generate=generate)


class _Connection(ABC):
    """Common base of the clients; see `Client`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout: float = 30.0,
        retries: int | None = None,
        version: int | None = None,
        tls: Tls | Path | bool | None = None,
        token: str | None = None,
        admin_key: str | None = None,
        priority: int = 1,
    ) -> None:
        if priority not in (1, 2):
            raise ValueError(f"priority is {priority!r}, expected 1 or 2")
        self.priority = priority
        self.url, self.timeout, self.retries, self.version = url, timeout, retries, version
        self.headers = access.headers(token, admin_key)
        self.triton = self._connect(channel_arguments(tls, retry=retries != 0))

    @abstractmethod
    def _connect(self, arguments: dict[str, Any]) -> Any:
        """Return a client of tritonclient."""


class Client(_Connection):
    """Thread-safe client of a server; closes with the ``with`` block.

    All requests raise:
        InvalidRequestError: If the endpoint refuses the request.
        NoSuchEndpointError: If the server does not have the endpoint.
        ServerUnavailableError: If there is no server, or the endpoint is not loaded, after ``retries`` further
            attempts.
        ServerTimeoutError: If the answer takes longer than ``timeout``.
        ServingError: If the endpoint fails.

    Args:
        url: Host and port of the gRPC service.
        timeout: Seconds to wait for an answer, all attempts included.
        retries: Further attempts while the server is unavailable; by default as many as fit into ``timeout``, so that
            clients survive a restart. Other errors are not retried: an invalid request stays invalid, a failure would
            most likely repeat, and a timeout leaves no time.
        version: Version of the endpoints; by default the newest loaded one.
        tls: Encrypt the connection: True trusts the system's certificates, a path those of a PEM file, and `Tls` also
            presents a certificate. By default the connection is not encrypted.
        token: Token that the server requires, see ``albef serve --tokens``.
        admin_key: Administrator's key, for `models` and releases.
        priority: 1, or 2 for bulk work such as embedding a collection, which other requests overtake.

    Within a span of OpenTelemetry, requests belong to its trace.

    Raises:
        AccessError: If a PEM file cannot be read.
        ValueError: If there is no such priority.
    """

    def _connect(self, arguments: dict[str, Any]) -> Any:
        from tritonclient.grpc import InferenceServerClient

        return InferenceServerClient(self.url, **arguments)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.triton.close()

    def live(self) -> bool:
        """Return whether the server has started."""
        return self._answers(self.triton.is_server_live)

    def ready(self) -> bool:
        """Return whether all endpoints answer."""
        return self._answers(self.triton.is_server_ready)

    def _answers(self, question: Callable[..., bool]) -> bool:
        from tritonclient.utils import InferenceServerException

        try:
            return question(headers=self.headers, client_timeout=self.timeout)
        except InferenceServerException:
            return False

    def models(self) -> dict[str, bool]:
        """Return all models of the server, with True for loaded ones; for administrators."""
        with translated_errors(self.url, "models"):
            entries = self.triton.get_model_repository_index(headers=self.headers, client_timeout=self.timeout).models
        loaded = {model.name for model in entries if model.state == "READY"}
        return {model.name: model.name in loaded for model in entries}

    def retrieve(
        self, text: str | None = None, image: ImageInput | None = None, **options: Unpack[RetrievalOptions]
    ) -> list[Match]:
        """Find images for a text, captions for an image, or images for both, best first.

        See `albef.serving.requests.RetrievalOptions`.
        """
        return self.ask(_query(text, image, options))[0]

    def retrieve_many(self, texts: Sequence[str], **options: Unpack[RetrievalOptions]) -> list[list[Match]]:
        """Find images for several texts in one request; see `retrieve`.

        One invalid text fails the request.
        """
        return self.ask(requests.build("retrieval", texts=texts, **options))

    def answer(
        self,
        image: ImageInput,
        question: str,
        k: int | None = None,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[Answer]:
        """Answer a question about an image; answers are best first.

        Args:
            k: Maximum number of answers.
            candidates: Answers to rank instead of the endpoint's answer list.
            generate: Generate answers instead of ranking candidates; by default as configured in the endpoint.
        """
        return self.ask(_questions(image, [question], k, candidates, generate))[0]

    def answer_many(
        self,
        image: ImageInput,
        questions: Sequence[str],
        k: int | None = None,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[list[Answer]]:
        """Answer several questions about an image, which is encoded once; see `answer`."""
        return self.ask(_questions(image, questions, k, candidates, generate))

    def entail(self, image: ImageInput, hypothesis: str) -> dict[str, float]:
        """Return the probabilities of contradiction, neutral and entailment by label."""
        request: Request[dict[str, float]] = requests.build("entailment", image=image, hypotheses=[hypothesis])
        return self.ask(request)[0]

    def ground(self, image: ImageInput, expression: str, boxes: Sequence[Sequence[float]] | None = None) -> Grounded:
        """Locate an expression in an image.

        Args:
            boxes: Candidates x, y, width, height to choose from; by default the box is derived from the heat map.
        """
        request: Request[Grounded] = requests.build("grounding", image=image, expressions=[expression], boxes=boxes)
        return self.ask(request)[0]

    def embed(self, texts: Sequence[str] | None = None, images: Sequence[ImageInput] | None = None) -> Array:
        """Return ITC features of texts or of images, one row each.

        They have unit length and are the same as those in the index of retrieval. The dot product of two rows is their
        cosine similarity.
        """
        request: Request[Array] = requests.build("embed", texts=texts, images=images)
        rows = self.ask(request)
        return np.stack(rows)

    def classify(
        self, image: ImageInput, labels: Sequence[str], templates: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Return the probabilities of any labels for an image, best first.

        Args:
            templates: Texts with ``{}`` in place of the label, such as "a photo of a {}", whose features are averaged;
                by default the label alone.
        """
        request: Request[dict[str, float]] = requests.build("classify", image=image, labels=labels, templates=templates)
        return self.ask(request)[0]

    def compare(self, first: ImageInput, second: ImageInput, statement: str) -> dict[str, float]:
        """Return the probabilities that a statement about two images is "False" or "True"."""
        request: Request[dict[str, float]] = requests.build(
            "compare", first=first, second=second, statements=[statement]
        )
        return self.ask(request)[0]

    def ask(self, request: Request[T]) -> list[T]:
        """Send a request and return one answer per row."""
        attempts = Attempts(self.timeout, self.retries)
        arguments = infer_arguments(request, self.version, self.priority)
        arguments["headers"] = with_trace_context(self.headers)
        while True:
            try:
                with translated_errors(self.url, request.spec.name):
                    result = self.triton.infer(**arguments, client_timeout=attempts.remaining())
                    return read_answers(request, result)
            except ServerUnavailableError as error:
                time.sleep(attempts.pause(error))


class AsyncClient(_Connection):
    """`Client` for asyncio.

    It is created within a running event loop and closes with the ``async with`` block.
    """

    def _connect(self, arguments: dict[str, Any]) -> Any:
        from tritonclient.grpc.aio import InferenceServerClient

        return InferenceServerClient(self.url, **arguments)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.triton.close()

    async def retrieve(
        self, text: str | None = None, image: ImageInput | None = None, **options: Unpack[RetrievalOptions]
    ) -> list[Match]:
        """See `Client.retrieve`."""
        return (await self.ask(_query(text, image, options)))[0]

    async def answer(
        self,
        image: ImageInput,
        question: str,
        k: int | None = None,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[Answer]:
        """See `Client.answer`."""
        return (await self.ask(_questions(image, [question], k, candidates, generate)))[0]

    async def entail(self, image: ImageInput, hypothesis: str) -> dict[str, float]:
        """See `Client.entail`."""
        request: Request[dict[str, float]] = requests.build("entailment", image=image, hypotheses=[hypothesis])
        return (await self.ask(request))[0]

    async def ground(
        self, image: ImageInput, expression: str, boxes: Sequence[Sequence[float]] | None = None
    ) -> Grounded:
        """See `Client.ground`."""
        request: Request[Grounded] = requests.build("grounding", image=image, expressions=[expression], boxes=boxes)
        return (await self.ask(request))[0]

    async def embed(self, texts: Sequence[str] | None = None, images: Sequence[ImageInput] | None = None) -> Array:
        """See `Client.embed`."""
        request: Request[Array] = requests.build("embed", texts=texts, images=images)
        rows = await self.ask(request)
        return np.stack(rows)

    async def classify(
        self, image: ImageInput, labels: Sequence[str], templates: Sequence[str] | None = None
    ) -> dict[str, float]:
        """See `Client.classify`."""
        request: Request[dict[str, float]] = requests.build("classify", image=image, labels=labels, templates=templates)
        return (await self.ask(request))[0]

    async def compare(self, first: ImageInput, second: ImageInput, statement: str) -> dict[str, float]:
        """See `Client.compare`."""
        request: Request[dict[str, float]] = requests.build(
            "compare", first=first, second=second, statements=[statement]
        )
        return (await self.ask(request))[0]

    async def ask(
        self, request: Request[T], *, headers: Mapping[str, str] | None = None, priority: int | None = None
    ) -> list[T]:
        """See `Client.ask`.

        Args:
            headers: Metadata of this request, instead of the client's own.
            priority: Priority of this request, instead of the client's.
        """
        attempts = Attempts(self.timeout, self.retries)
        arguments = infer_arguments(request, self.version, priority or self.priority)
        arguments["headers"] = with_trace_context(self.headers if headers is None else headers)
        while True:
            try:
                with translated_errors(self.url, request.spec.name):
                    result = await self.triton.infer(**arguments, client_timeout=attempts.remaining())
                    return read_answers(request, result)
            except ServerUnavailableError as error:
                await asyncio.sleep(attempts.pause(error))
