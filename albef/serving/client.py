"""Typed clients of the endpoints over gRPC, one for threads and one for asyncio."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar

from albef.serving import calls, contract
from albef.serving.calls import Answer, Call, Grounded, InvalidRequestError, Match, Picture, ServingError
from albef.serving.shared import Pool, Region

T = TypeVar("T")
DEFAULT_URL = "127.0.0.1:8001"
MAX_MESSAGE = 2**31 - 1
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0
# A server that stops or starts answers NOT_FOUND for models it knows but does not hold now.
_NOT_LOADED = "has no available versions"


class ServerUnavailableError(ServingError, ConnectionError):
    """No server at this address, or one that is starting or about to stop."""


class NoSuchEndpointError(ServingError, ConnectionError):
    """The server has no such endpoint."""


class ServerTimeoutError(ServingError, TimeoutError):
    """No answer in time."""


class SharedMemoryError(ServingError):
    """The server cannot read this machine's shared memory."""


class _LostRegionError(ServingError):
    """The server does not know a region of shared memory: it was started again meanwhile."""


_ERRORS: dict[str, type[ServingError]] = {
    "StatusCode.INVALID_ARGUMENT": InvalidRequestError,
    "StatusCode.UNAVAILABLE": ServerUnavailableError,
    "StatusCode.NOT_FOUND": NoSuchEndpointError,
    "StatusCode.DEADLINE_EXCEEDED": ServerTimeoutError,
}


@contextmanager
def _errors(url: str, model: str) -> Iterator[None]:
    """Turns the library's exception into one of ours."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        kind = _ERRORS.get(error.status(), ServingError)
        text = str(error.message()).strip()
        if "unable to find shared memory region" in text.lower():
            kind = _LostRegionError
        if kind is NoSuchEndpointError and text.endswith(_NOT_LOADED):
            kind = ServerUnavailableError
        if kind is InvalidRequestError:
            raise kind(text) from error
        raise kind(f"{url}: {model}: {text}") from error


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment cannot reach this machine's loopback
        # Within its pause the channel fails without connecting, whoever asks; by itself it grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", int(1000 * _FIRST_WAIT)),
        ("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_WAIT)),
        ("grpc.use_local_subchannel_pool", 1),  # or a new client waits out the pause of another one of the process
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
    ]


def _request(call: Call[T], version: int | None = None, region: Region | None = None) -> dict[str, Any]:
    """Arguments of an inference call; its images lie in ``region``, or else in the request."""
    from tritonclient.grpc import InferInput, InferRequestedOutput

    inputs = []
    for tensor in call.spec.inputs:
        if tensor.name in call.arrays:
            value = InferInput(tensor.name, call.arrays[tensor.name].shape, tensor.dtype)
            if region is not None and tensor.name == contract.ENDPOINT_IMAGE:
                value.set_shared_memory(region.name, region.used)
            else:
                value.set_data_from_numpy(call.arrays[tensor.name])
            inputs.append(value)
    outputs = [InferRequestedOutput(name) for name in call.spec.output_names]
    return {
        "model_name": call.spec.name,
        "model_version": "" if version is None else str(version),
        "inputs": inputs,
        "outputs": outputs,
        "request_id": secrets.token_hex(8),  # the server's logs and traces name it
    }


def _region(call: Call[T], pool: Pool | None) -> Region | None:
    """Shared memory with the images of a request, if it has any and they are to go that way."""
    images = call.arrays.get(contract.ENDPOINT_IMAGE)
    if pool is None or images is None:
        return None
    try:
        return pool.take(list(images.reshape(-1)))
    except OSError as error:
        raise SharedMemoryError(f"no shared memory for the images ({error})") from error


def _give(pool: Pool | None, region: Region | None) -> None:
    """Give a region back that the server has done with. Not after a timeout, when it may read on."""
    if pool is not None and region is not None:
        pool.give(region)


def _unmapped(url: str, error: Exception) -> SharedMemoryError:
    return SharedMemoryError(
        f"{url}: the server has no access to this machine's shared memory, as on another host or in a container "
        f"without --ipc=host: {error}"
    )


def _answers(call: Call[T], result: Any) -> list[T]:
    return call.read({name: result.as_numpy(name) for name in call.spec.output_names})


class _Attempts:
    """How often and how long a question may be put."""

    def __init__(self, timeout: float, retries: int | None) -> None:
        self.deadline = time.monotonic() + timeout
        self.retries, self.longest = math.inf if retries is None else retries, _FIRST_WAIT
        self.again = False

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self.deadline - time.monotonic(), 0.001)

    def region(self, error: _LostRegionError) -> None:
        """Note that shared memory was unknown to the server; it may be so once a question.

        Raises:
            _LostRegionError: ``error`` itself, the second time.
        """
        if self.again:
            raise error
        self.again = True

    def pause(self, error: ServerUnavailableError) -> float:
        """Seconds before another attempt: doubling, and never in step with other clients.

        Raises:
            ServerUnavailableError: ``error`` itself, where no attempt or no time is left.
        """
        wait = self.longest * random.uniform(0.5, 1.0)
        if self.retries <= 0 or wait >= self.left():
            raise error
        self.retries -= 1
        self.longest = min(2 * self.longest, _LONGEST_WAIT)
        return wait


class Client:
    """Asks a server questions. Usable from several threads; closes with the ``with`` block.

    All questions raise:
        InvalidRequestError: If the question is not one the endpoint takes.
        NoSuchEndpointError: If the server does not have the endpoint.
        ServerUnavailableError: If there is no such server, or it does not hold the endpoint now, after ``retries`` more
            attempts.
        ServerTimeoutError: If it takes longer than ``timeout``.
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

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout: float = 30.0,
        retries: int | None = None,
        version: int | None = None,
        shared_memory: bool = False,
    ) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.url, self.timeout, self.retries, self.version = url, timeout, retries, version
        self._pool = Pool() if shared_memory else None
        self.triton = InferenceServerClient(url, channel_args=_options())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        for region in self._pool.regions() if self._pool else []:
            with suppress(Exception):  # the server may be gone
                self.triton.unregister_system_shared_memory(region.name, client_timeout=1)
        if self._pool:
            self._pool.close()
        self.triton.close()

    def ready(self) -> bool:
        """Whether the server answers, and each of its models is loaded in some version."""
        from tritonclient.utils import InferenceServerException

        try:
            if not self.triton.is_server_ready(client_timeout=self.timeout):
                return False
            found = self.triton.get_model_repository_index(client_timeout=self.timeout).models
        except InferenceServerException:
            return False
        return {model.name for model in found} == {model.name for model in found if model.state == "READY"}

    def retrieve(
        self,
        text: str | None = None,
        image: Picture | None = None,
        k: int = contract.DEFAULT_K,
        rerank: bool = contract.DEFAULT_RERANK,
    ) -> list[Match]:
        """Images for a text, or captions for an image, best first.

        Args:
            k: Number of answers, at most; the gallery may hold fewer.
            rerank: Re-rank the shortlist by the match head. Without it scores are cosine similarities.
        """
        return self.ask(calls.retrieval(*calls.query(text, image), k, rerank))[0]

    def retrieve_many(
        self, texts: Sequence[str], k: int = contract.DEFAULT_K, rerank: bool = contract.DEFAULT_RERANK
    ) -> list[list[Match]]:
        """Images for several texts in one request; see `retrieve`. One bad text fails them all."""
        return self.ask(calls.retrieval(contract.ENDPOINT_TEXT, [text.encode() for text in texts], k, rerank))

    def answer(
        self,
        image: Picture,
        question: str,
        k: int = contract.DEFAULT_ANSWERS,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[Answer]:
        """Answers to a question about an image, best first.

        Args:
            candidates: To choose from, in place of the answers of the task.
            generate: Write answers rather than choose; by default as the endpoint is set up.
        """
        return self.ask(calls.vqa(image, [question], k, candidates, generate))[0]

    def answer_many(
        self,
        image: Picture,
        questions: Sequence[str],
        k: int = contract.DEFAULT_ANSWERS,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[list[Answer]]:
        """Answers to several questions about an image, which is encoded once; see `answer`."""
        return self.ask(calls.vqa(image, questions, k, candidates, generate))

    def entail(self, image: Picture, hypothesis: str) -> dict[str, float]:
        """Probabilities that an image contradicts a hypothesis, says nothing of it or entails it, by label."""
        return self.ask(calls.entailment(image, [hypothesis]))[0]

    def ground(self, image: Picture, expression: str, boxes: Sequence[Sequence[float]] | None = None) -> Grounded:
        """Where in an image an expression is: the best of ``boxes``, or the surroundings of the hottest place."""
        return self.ask(calls.grounding(image, [expression], boxes))[0]

    def ask(self, call: Call[T]) -> list[T]:
        """Send a request; one answer a row."""
        attempts, region = _Attempts(self.timeout, self.retries), _region(call, self._pool)
        arguments = _request(call, self.version, region)
        while True:
            try:
                if region is not None and not region.registered:
                    self._register(region)
                with _errors(self.url, call.spec.name):
                    found = self.triton.infer(**arguments, client_timeout=attempts.left())
                break
            except _LostRegionError as error:
                attempts.region(error)
            except ServerUnavailableError as error:
                time.sleep(attempts.pause(error))
            except InvalidRequestError:
                _give(self._pool, region)
                raise
            if region is not None:
                region.lost()
        _give(self._pool, region)
        return _answers(call, found)

    def _register(self, region: Region) -> None:
        from tritonclient.utils import InferenceServerException

        if region.stale:
            with suppress(InferenceServerException):
                self.triton.unregister_system_shared_memory(region.name)
        try:
            self.triton.register_system_shared_memory(region.name, region.key, region.size)
        except InferenceServerException as error:
            raise _unmapped(self.url, error) from error
        region.registered = True


class AsyncClient:
    """`Client` for asyncio; closes with the ``async with`` block. To be made within a running event loop."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout: float = 30.0,
        retries: int | None = None,
        version: int | None = None,
        shared_memory: bool = False,
    ) -> None:
        from tritonclient.grpc.aio import InferenceServerClient

        self.url, self.timeout, self.retries, self.version = url, timeout, retries, version
        self._pool = Pool() if shared_memory else None
        self.triton = InferenceServerClient(url, channel_args=_options())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for region in self._pool.regions() if self._pool else []:
            with suppress(Exception):
                await self.triton.unregister_system_shared_memory(region.name, client_timeout=1)
        if self._pool:
            self._pool.close()
        await self.triton.close()

    async def retrieve(
        self,
        text: str | None = None,
        image: Picture | None = None,
        k: int = contract.DEFAULT_K,
        rerank: bool = contract.DEFAULT_RERANK,
    ) -> list[Match]:
        """See `Client.retrieve`."""
        return (await self.ask(calls.retrieval(*calls.query(text, image), k, rerank)))[0]

    async def answer(
        self,
        image: Picture,
        question: str,
        k: int = contract.DEFAULT_ANSWERS,
        candidates: Sequence[str] | None = None,
        generate: bool | None = None,
    ) -> list[Answer]:
        """See `Client.answer`."""
        return (await self.ask(calls.vqa(image, [question], k, candidates, generate)))[0]

    async def entail(self, image: Picture, hypothesis: str) -> dict[str, float]:
        """See `Client.entail`."""
        return (await self.ask(calls.entailment(image, [hypothesis])))[0]

    async def ground(self, image: Picture, expression: str, boxes: Sequence[Sequence[float]] | None = None) -> Grounded:
        """See `Client.ground`."""
        return (await self.ask(calls.grounding(image, [expression], boxes)))[0]

    async def ask(self, call: Call[T]) -> list[T]:
        """See `Client.ask`."""
        attempts, region = _Attempts(self.timeout, self.retries), _region(call, self._pool)
        arguments = _request(call, self.version, region)
        while True:
            try:
                if region is not None and not region.registered:
                    await self._register(region)
                with _errors(self.url, call.spec.name):
                    found = await self.triton.infer(**arguments, client_timeout=attempts.left())
                break
            except _LostRegionError as error:
                attempts.region(error)
            except ServerUnavailableError as error:
                await asyncio.sleep(attempts.pause(error))
            except InvalidRequestError:
                _give(self._pool, region)
                raise
            if region is not None:
                region.lost()
        _give(self._pool, region)
        return _answers(call, found)

    async def _register(self, region: Region) -> None:
        from tritonclient.utils import InferenceServerException

        if region.stale:
            with suppress(InferenceServerException):
                await self.triton.unregister_system_shared_memory(region.name)
        try:
            await self.triton.register_system_shared_memory(region.name, region.key, region.size)
        except InferenceServerException as error:
            raise _unmapped(self.url, error) from error
        region.registered = True
