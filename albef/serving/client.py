"""A typed client of the endpoints, over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from albef.serving import contract

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


class Client:
    """Asks a server questions. Usable from several threads; closes with the ``with`` block.

    Args:
        url: Host and port of the gRPC service.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, url: str = "127.0.0.1:8001", timeout: float = 30.0) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.url = url
        self.timeout = timeout
        # A proxy of the environment cannot reach this machine's loopback.
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.max_receive_message_length", MAX_MESSAGE),
        ]
        self._client = InferenceServerClient(url, channel_args=options)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def ready(self) -> bool:
        """Whether the server answers and all its models are loaded."""
        from tritonclient.utils import InferenceServerException

        try:
            return bool(self._client.is_server_ready(client_timeout=self.timeout))
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
        if (text is None) == (image is None):
            raise InvalidRequestError(
                f"give exactly one of text and image, not {'neither' if text is None else 'both'}"
            )
        if text is not None:
            return self._retrieve(contract.ENDPOINT_TEXT, [text.encode()], k, rerank)[0]
        return self._retrieve(contract.ENDPOINT_IMAGE, [_read(image)], k, rerank)[0]

    def retrieve_many(
        self, texts: Sequence[str], k: int = contract.DEFAULT_K, rerank: bool = contract.DEFAULT_RERANK
    ) -> list[list[Match]]:
        """Images for several texts in one request; see `retrieve`. One bad text fails them all."""
        return self._retrieve(contract.ENDPOINT_TEXT, [text.encode() for text in texts], k, rerank)

    def _retrieve(self, name: str, values: list[bytes], k: int, rerank: bool) -> list[list[Match]]:
        rows = len(values)
        if not -(2**31) <= k < 2**31:
            raise InvalidRequestError(f"'k' is {k}, which is no 32-bit number")
        inputs = {
            name: np.array(values, dtype=np.object_).reshape(rows, 1),
            contract.ENDPOINT_K: np.full((rows, 1), k, dtype=np.int32),
            contract.ENDPOINT_RERANK: np.full((rows, 1), rerank, dtype=np.bool_),
        }
        result = self._infer(contract.RETRIEVAL, inputs)
        ids, scores = result.as_numpy(contract.ENDPOINT_IDS), result.as_numpy(contract.ENDPOINT_SCORES)
        return [
            [Match(key.decode(), float(score)) for key, score in zip(row, line, strict=True)]
            for row, line in zip(ids, scores, strict=True)
        ]

    def _infer(self, spec: contract.ModelSpec, arrays: dict[str, Any]) -> Any:
        from tritonclient.grpc import InferInput, InferRequestedOutput
        from tritonclient.utils import InferenceServerException

        inputs = []
        for tensor in spec.inputs:
            if tensor.name in arrays:
                value = InferInput(tensor.name, arrays[tensor.name].shape, tensor.dtype)
                value.set_data_from_numpy(arrays[tensor.name])
                inputs.append(value)
        outputs = [InferRequestedOutput(name) for name in spec.output_names]
        try:
            return self._client.infer(spec.name, inputs, outputs=outputs, client_timeout=self.timeout)
        except InferenceServerException as error:
            kind = _ERRORS.get(error.status(), ServingError)
            text = str(error.message()).strip()
            if kind is InvalidRequestError:
                raise kind(text) from error
            raise kind(f"{self.url}: {spec.name}: {text}") from error


def _read(image: str | Path | bytes | None) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return Path(str(image)).read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{image}: cannot read the picture ({error.strerror})") from error
