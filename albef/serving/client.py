"""Typed clients of the endpoints over gRPC, one for threads and one for asyncio."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from albef.serving import protocol, requests
from albef.serving.requests import Answer, Call, Grounded, InvalidRequestError, Match, Picture, ServingError
from albef.serving.shared_memory import Pool, Region
from albef.serving.transport import (
    Attempts,
    LostRegionError,
    NoSuchEndpointError,
    ServerTimeoutError,
    ServerUnavailableError,
    SharedMemoryError,
    answers,
    errors,
    lent,
    options,
    registering,
    request,
)

__all__ = [
    "AsyncClient",
    "Client",
    "InvalidRequestError",
    "NoSuchEndpointError",
    "ServerTimeoutError",
    "ServerUnavailableError",
    "ServingError",
    "SharedMemoryError",
]

T = TypeVar("T")
DEFAULT_URL = "127.0.0.1:8001"


class _Connection(ABC):
    """What both clients are made of; see `Client`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout: float = 30.0,
        retries: int | None = None,
        version: int | None = None,
        shared_memory: bool = False,
    ) -> None:
        self.url, self.timeout, self.retries, self.version = url, timeout, retries, version
        self._pool = Pool() if shared_memory else None
        self.triton = self._connect()

    @abstractmethod
    def _connect(self) -> Any:
        """The library's client."""

    def _regions(self) -> list[Region]:
        return self._pool.regions() if self._pool else []


class Client(_Connection):
    """Asks a server questions. Usable from several threads; closes with the ``with`` block.

    All questions raise:
        InvalidRequestError: If the question is not one the endpoint takes.
        NoSuchEndpointError: If the server does not have the endpoint.
        ServerUnavailableError: If there is no such server, or it does not hold the endpoint now, after ``retries`` more
            attempts.
        ServerTimeoutError: If it takes longer than ``timeout``.
        SharedMemoryError: If images are to go by shared memory, and the server cannot read it.
        ServingError: If the endpoint fails.

    Args:
        url: Host and port of the gRPC service.
        timeout: Seconds to wait for an answer, attempts included.
        retries: Further attempts where the server is unavailable; by default as many as ``timeout`` has room for, so
            that a restart goes unnoticed. Nothing else is tried again: a mistaken request stays one, what failed would
            fail again, and after a timeout no time is left.
        version: Of the endpoints; by default the newest that is loaded.
        shared_memory: Whether images go by way of shared memory; for a server on this host.
    """

    def _connect(self) -> Any:
        from tritonclient.grpc import InferenceServerClient

        return InferenceServerClient(self.url, channel_args=options())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        for region in self._regions():
            with suppress(Exception):  # the server may be gone
                self.triton.unregister_system_shared_memory(region.name, client_timeout=1)
        if self._pool:
            self._pool.close()
        self.triton.close()

    def ready(self) -> bool:
        """Whether the server answers, and each of its models is loaded in some version."""
        from tritonclient.utils import InferenceServerException

        try:
            return self.triton.is_server_ready(client_timeout=self.timeout) and all(self.models().values())
        except InferenceServerException:
            return False

    def models(self) -> dict[str, bool]:
        """The models of the server's repository, and whether some version of each is loaded."""
        found = self.triton.get_model_repository_index(client_timeout=self.timeout).models
        loaded = {model.name for model in found if model.state == "READY"}
        return {model.name: model.name in loaded for model in found}

    def retrieve(
        self,
        text: str | None = None,
        image: Picture | None = None,
        k: int = protocol.DEFAULT_K,
        rerank: bool = protocol.DEFAULT_RERANK,
    ) -> list[Match]:
        """Images for a text, or captions for an image, best first.

        Args:
            k: Number of answers, at most; the gallery may hold fewer.
            rerank: Re-rank the shortlist by the match head. Without it scores are cosine similarities.
        """
        return self.ask(requests.retrieval(*requests.query(text, image), k, rerank))[0]

    def retrieve_many(
        self, texts: Sequence[str], k: int = protocol.DEFAULT_K, rerank: bool = protocol.DEFAULT_RERANK
    ) -> list[list[Match]]:
        """Images for several texts in one request; see `retrieve`. One bad text fails them all."""
        return self.ask(requests.retrieval(protocol.ENDPOINT_TEXT, [text.encode() for text in texts], k, rerank))

    def answer(
        self,
        image: Picture,
        question: str,
        k: int = protocol.DEFAULT_ANSWERS,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[Answer]:
        """Answers to a question about an image, best first.

        Args:
            candidates: To choose from, in place of the answers of the task.
            generate: Write answers rather than choose; by default as the endpoint is set up.
        """
        return self.ask(requests.vqa(image, [question], k, candidates, generate))[0]

    def answer_many(
        self,
        image: Picture,
        questions: Sequence[str],
        k: int = protocol.DEFAULT_ANSWERS,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[list[Answer]]:
        """Answers to several questions about an image, which is encoded once; see `answer`."""
        return self.ask(requests.vqa(image, questions, k, candidates, generate))

    def entail(self, image: Picture, hypothesis: str) -> dict[str, float]:
        """Probabilities that an image contradicts a hypothesis, says nothing of it or entails it, by label."""
        return self.ask(requests.entailment(image, [hypothesis]))[0]

    def ground(self, image: Picture, expression: str, boxes: Sequence[Sequence[float]] | None = None) -> Grounded:
        """Where in an image an expression is: the best of ``boxes``, or the surroundings of the hottest place."""
        return self.ask(requests.grounding(image, [expression], boxes))[0]

    def ask(self, call: Call[T]) -> list[T]:
        """Send a request; one answer a row."""
        attempts = Attempts(self.timeout, self.retries)
        with lent(call, self._pool) as region:
            arguments = request(call, self.version, region)
            while True:
                try:
                    if region is not None and not region.registered:
                        self._register(region, attempts.left())
                    with errors(self.url, call.spec.name):
                        return answers(call, self.triton.infer(**arguments, client_timeout=attempts.left()))
                except LostRegionError as error:
                    attempts.region(error)
                except ServerUnavailableError as error:
                    time.sleep(attempts.pause(error))
                if region is not None:
                    region.lost()

    def _register(self, region: Region, timeout: float) -> None:
        if region.stale:
            with suppress(ServingError), errors(self.url, region.name):
                self.triton.unregister_system_shared_memory(region.name, client_timeout=timeout)
        with registering(self.url):
            self.triton.register_system_shared_memory(region.name, region.key, region.size, client_timeout=timeout)
        region.registered = True


class AsyncClient(_Connection):
    """`Client` for asyncio; closes with the ``async with`` block. To be made within a running event loop."""

    def _connect(self) -> Any:
        from tritonclient.grpc.aio import InferenceServerClient

        return InferenceServerClient(self.url, channel_args=options())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for region in self._regions():
            with suppress(Exception):
                await self.triton.unregister_system_shared_memory(region.name, client_timeout=1)
        if self._pool:
            self._pool.close()
        await self.triton.close()

    async def retrieve(
        self,
        text: str | None = None,
        image: Picture | None = None,
        k: int = protocol.DEFAULT_K,
        rerank: bool = protocol.DEFAULT_RERANK,
    ) -> list[Match]:
        """See `Client.retrieve`."""
        return (await self.ask(requests.retrieval(*requests.query(text, image), k, rerank)))[0]

    async def answer(
        self,
        image: Picture,
        question: str,
        k: int = protocol.DEFAULT_ANSWERS,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[Answer]:
        """See `Client.answer`."""
        return (await self.ask(requests.vqa(image, [question], k, candidates, generate)))[0]

    async def entail(self, image: Picture, hypothesis: str) -> dict[str, float]:
        """See `Client.entail`."""
        return (await self.ask(requests.entailment(image, [hypothesis])))[0]

    async def ground(self, image: Picture, expression: str, boxes: Sequence[Sequence[float]] | None = None) -> Grounded:
        """See `Client.ground`."""
        return (await self.ask(requests.grounding(image, [expression], boxes)))[0]

    async def ask(self, call: Call[T]) -> list[T]:
        """See `Client.ask`."""
        attempts = Attempts(self.timeout, self.retries)
        with lent(call, self._pool) as region:
            arguments = request(call, self.version, region)
            while True:
                try:
                    if region is not None and not region.registered:
                        await self._register(region, attempts.left())
                    with errors(self.url, call.spec.name):
                        return answers(call, await self.triton.infer(**arguments, client_timeout=attempts.left()))
                except LostRegionError as error:
                    attempts.region(error)
                except ServerUnavailableError as error:
                    await asyncio.sleep(attempts.pause(error))
                if region is not None:
                    region.lost()

    async def _register(self, region: Region, timeout: float) -> None:
        if region.stale:
            with suppress(ServingError), errors(self.url, region.name):
                await self.triton.unregister_system_shared_memory(region.name, client_timeout=timeout)
        with registering(self.url):
            await self.triton.register_system_shared_memory(
                region.name, region.key, region.size, client_timeout=timeout
            )
        region.registered = True
