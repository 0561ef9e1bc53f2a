"""A typed client of the endpoints, over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from albef.serving import contract

DEFAULT_URL = "127.0.0.1:8001"
MAX_MESSAGE = 2**31 - 1


class ServingError(OSError):
    """The server gave no answer."""


class InvalidRequestError(ServingError, ValueError):
    """The server refused the question; the message says what is wrong with it."""


class ServerUnavailableError(ServingError, ConnectionError):
    """No server at this address, or the endpoint is not loaded there."""


class ServerTimeoutError(ServingError, TimeoutError):
    """No answer in time."""


_ERRORS: dict[str, type[ServingError]] = {
    "StatusCode.INVALID_ARGUMENT": InvalidRequestError,
    "StatusCode.UNAVAILABLE": ServerUnavailableError,
    "StatusCode.NOT_FOUND": ServerUnavailableError,
    "StatusCode.DEADLINE_EXCEEDED": ServerTimeoutError,
}


@dataclass(frozen=True)
class Match:
    """One answer: the path of an image or a caption, and how well it fits."""

    id: str
    score: float


@contextmanager
def _errors(url: str, model: str) -> Iterator[None]:
    """Turns the library's exception into one of ours."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        kind = _ERRORS.get(error.status(), ServingError)
        text = str(error.message()).strip()
        if kind is InvalidRequestError:
            raise kind(text) from error
        raise kind(f"{url}: {model}: {text}") from error


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment cannot reach this machine's loopback
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
    ]


def _request(spec: contract.ModelSpec, arrays: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an inference call."""
    from tritonclient.grpc import InferInput, InferRequestedOutput

    inputs = []
    for tensor in spec.inputs:
        if tensor.name in arrays:
            value = InferInput(tensor.name, arrays[tensor.name].shape, tensor.dtype)
            value.set_data_from_numpy(arrays[tensor.name])
            inputs.append(value)
    outputs = [InferRequestedOutput(name) for name in spec.output_names]
    return {"model_name": spec.name, "inputs": inputs, "outputs": outputs}


def _query(text: str | None, image: str | Path | bytes | None) -> tuple[str, list[bytes]]:
    """The one input that a question has.

    Raises:
        InvalidRequestError: If it has both or neither, or the file cannot be read.
    """
    if text is not None and image is None:
        return contract.ENDPOINT_TEXT, [text.encode()]
    if image is None or text is not None:
        raise InvalidRequestError(f"give exactly one of text and image, not {'neither' if text is None else 'both'}")
    if isinstance(image, bytes):
        return contract.ENDPOINT_IMAGE, [image]
    try:
        return contract.ENDPOINT_IMAGE, [Path(image).read_bytes()]
    except OSError as error:
        raise InvalidRequestError(f"{image}: cannot read the picture ({error.strerror})") from error


def _retrieval(name: str, values: list[bytes], k: int, rerank: bool) -> dict[str, Any]:
    """Arguments of a call of the retrieval endpoint."""
    rows = len(values)
    if not rows:
        raise InvalidRequestError("give at least one text")
    if not -(2**31) <= k < 2**31:
        raise InvalidRequestError(f"'k' is {k}, which is no 32-bit number")
    arrays = {
        name: np.array(values, dtype=np.object_).reshape(rows, 1),
        contract.ENDPOINT_K: np.full((rows, 1), k, dtype=np.int32),
        contract.ENDPOINT_RERANK: np.full((rows, 1), rerank, dtype=np.bool_),
    }
    return _request(contract.RETRIEVAL, arrays)


def _matches(result: Any) -> list[list[Match]]:
    """Answers per query."""
    ids, scores = result.as_numpy(contract.ENDPOINT_IDS), result.as_numpy(contract.ENDPOINT_SCORES)
    return [
        [Match(key.decode(), float(score)) for key, score in zip(row, line, strict=True)]
        for row, line in zip(ids, scores, strict=True)
    ]


class Client:
    """Asks a server questions. Usable from several threads; closes with the ``with`` block.

    Args:
        url: Host and port of the gRPC service.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 30.0) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.url = url
        self.timeout = timeout
        self.triton = InferenceServerClient(url, channel_args=_options())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.triton.close()

    def ready(self) -> bool:
        """Whether the server answers and all its models are loaded."""
        from tritonclient.utils import InferenceServerException

        try:
            return bool(self.triton.is_server_ready(client_timeout=self.timeout))
        except InferenceServerException:
            return False

    def retrieve(
        self,
        text: str | None = None,
        image: str | Path | bytes | None = None,
        k: int = contract.DEFAULT_K,
        rerank: bool = contract.DEFAULT_RERANK,
    ) -> list[Match]:
        """Images for a text, or captions for an image, best first.

        Args:
            image: Path of a file, or its bytes.
            k: Number of answers, at most; the gallery may hold fewer.
            rerank: Re-rank the shortlist by the match head. Without it scores are cosine similarities.

        Raises:
            InvalidRequestError: If the question is not one the endpoint takes.
            ServerUnavailableError: If there is no such server.
            ServerTimeoutError: If it takes longer than ``timeout``.
            ServingError: If the endpoint fails.
        """
        return self._infer(_retrieval(*_query(text, image), k, rerank))[0]

    def retrieve_many(
        self, texts: Sequence[str], k: int = contract.DEFAULT_K, rerank: bool = contract.DEFAULT_RERANK
    ) -> list[list[Match]]:
        """Images for several texts in one request; see `retrieve`. One bad text fails them all."""
        return self._infer(_retrieval(contract.ENDPOINT_TEXT, [text.encode() for text in texts], k, rerank))

    def _infer(self, call: dict[str, Any]) -> list[list[Match]]:
        with _errors(self.url, call["model_name"]):
            return _matches(self.triton.infer(**call, client_timeout=self.timeout))


class AsyncClient:
    """`Client` for asyncio; closes with the ``async with`` block. To be made within a running event loop."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 30.0) -> None:
        from tritonclient.grpc.aio import InferenceServerClient

        self.url = url
        self.timeout = timeout
        self.triton = InferenceServerClient(url, channel_args=_options())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.triton.close()

    async def retrieve(
        self,
        text: str | None = None,
        image: str | Path | bytes | None = None,
        k: int = contract.DEFAULT_K,
        rerank: bool = contract.DEFAULT_RERANK,
    ) -> list[Match]:
        """See `Client.retrieve`."""
        call = _retrieval(*_query(text, image), k, rerank)
        with _errors(self.url, call["model_name"]):
            return _matches(await self.triton.infer(**call, client_timeout=self.timeout))[0]
