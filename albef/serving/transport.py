"""Conversion to and from tritonclient, and the retry policy."""

from __future__ import annotations

import json
import math
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from albef.serving.access import Tls
from albef.serving.requests import InvalidRequestError, Request, ServingError

T = TypeVar("T")
MAX_MESSAGE = 24 * 2**20
"""Largest request in bytes: an image of ``serve.max_image_bytes`` with its text; larger ones are refused unread."""
MESSAGE_MARGIN = 2**20
"""Bytes of a request besides its texts and images."""
MAX_ANSWER = 2**31 - 1
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0
# A starting or stopping server answers NOT_FOUND with this ending for models that are not loaded.
_NOT_LOADED = "has no available versions"


class ServerUnavailableError(ServingError, ConnectionError):
    """There is no server at this address, or it is not ready."""


class BusyError(ServingError):
    """The server has too many requests in progress."""


class DeniedError(ServingError, PermissionError):
    """The server requires a token, a key or a certificate that the client does not have."""


class NoSuchEndpointError(ServingError, ConnectionError):
    """The server has no such endpoint."""


class ServerTimeoutError(ServingError, TimeoutError):
    """The server did not answer in time."""


_ERRORS: dict[str, type[ServingError]] = {
    "StatusCode.INVALID_ARGUMENT": InvalidRequestError,
    "StatusCode.UNAVAILABLE": ServerUnavailableError,
    "StatusCode.CANCELLED": ServerUnavailableError,  # by a server that stops
    "StatusCode.NOT_FOUND": NoSuchEndpointError,
    "StatusCode.DEADLINE_EXCEEDED": ServerTimeoutError,
    "StatusCode.RESOURCE_EXHAUSTED": BusyError,
    "StatusCode.UNAUTHENTICATED": DeniedError,
    "StatusCode.PERMISSION_DENIED": DeniedError,
}


@contextmanager
def translated_errors(url: str, model: str) -> Iterator[None]:
    """Translate exceptions of tritonclient to `ServingError` and its subclasses."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        kind = _ERRORS.get(error.status(), ServingError)
        text = str(error.message()).strip()
        if kind is NoSuchEndpointError and text.endswith(_NOT_LOADED):
            kind = ServerUnavailableError
        if kind is InvalidRequestError:
            raise kind(text) from error
        raise kind(f"{url}: {model}: {text}") from error


_RETRIES_WHEN_BUSY = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService", "method": "ModelInfer"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": f"{_FIRST_WAIT}s",
                "maxBackoff": f"{_LONGEST_WAIT}s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
"""gRPC's own retries of a server that is busy; the pause is the one that the server asks for, if it does."""


def channel_arguments(tls: Tls | Path | bool | None = None, *, retry: bool = True) -> dict[str, Any]:
    """Return the arguments of tritonclient's clients for the channel to a server.

    Args:
        retry: Let gRPC repeat requests that a busy server refused.

    Raises:
        AccessError: If a PEM file cannot be read.
    """
    options: list[tuple[str, int | str]] = [
        ("grpc.enable_http_proxy", 0),  # a proxy from the environment cannot reach the loopback address
        # While a channel backs off, all its requests fail; the default backoff grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", int(1000 * _FIRST_WAIT)),
        ("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_WAIT)),
        ("grpc.use_local_subchannel_pool", 1),  # otherwise a new client inherits the backoff of others in the process
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_receive_message_length", MAX_ANSWER),
        ("grpc.enable_retries", int(retry)),
    ]
    if retry:
        options.append(("grpc.service_config", json.dumps(_RETRIES_WHEN_BUSY)))
    arguments: dict[str, Any] = {"channel_args": options}
    if tls:
        files = tls if isinstance(tls, Tls) else Tls(ca=tls if isinstance(tls, Path) else None)
        files.read()  # for the error message
        names = {"root_certificates": files.ca, "private_key": files.key, "certificate_chain": files.cert}
        arguments |= {"ssl": True, **{name: str(path) for name, path in names.items() if path}}
    return arguments


def infer_arguments(request: Request[T], version: int | None = None, priority: int = 1) -> dict[str, Any]:
    """Return the arguments of tritonclient's ``infer``.

    Args:
        priority: 1, or 2 for a request that others overtake.

    Raises:
        InvalidRequestError: If the request is larger than a server accepts.
    """
    from tritonclient.grpc import InferInput, InferRequestedOutput

    arrays = request.arrays.values()
    size = sum(sum(map(len, array.flat)) if array.dtype == np.object_ else array.nbytes for array in arrays)
    if size > (limit := MAX_MESSAGE - MESSAGE_MARGIN):
        raise InvalidRequestError(f"the request has {size} bytes, expected at most {limit}; send fewer rows")
    inputs = []
    for tensor in request.spec.inputs:
        if tensor.name in request.arrays:
            value = InferInput(tensor.name, request.arrays[tensor.name].shape, tensor.dtype)
            value.set_data_from_numpy(request.arrays[tensor.name])
            inputs.append(value)
    outputs = [InferRequestedOutput(name) for name in request.spec.output_names]
    return {
        "model_name": request.spec.name,
        "model_version": "" if version is None else str(version),
        "inputs": inputs,
        "outputs": outputs,
        "request_id": secrets.token_hex(8),  # appears in the server's logs and traces
        "priority": priority if priority != 1 else 0,  # 0: not sent
    }


_RECORDED = re.compile("[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")


def trace_context(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the W3C trace context of a request.

    It is empty if the sender does not record the trace.
    """
    value = str(metadata.get("traceparent"))
    return {"traceparent": value} if _RECORDED.fullmatch(value) else {}


def with_trace_context(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with the context of OpenTelemetry's current span, if there is one."""
    extended = dict(headers)
    _injector()(extended)
    return extended


@cache
def _injector() -> Callable[[dict[str, str]], None]:
    try:
        from opentelemetry.propagate import inject
    except ImportError:
        return lambda headers: None
    return inject


def read_answers(request: Request[T], result: Any) -> list[T]:
    """Return the answers in a result of tritonclient, one per row."""
    return request.read({name: result.as_numpy(name) for name in request.spec.output_names})


class Attempts:
    """Retry policy of one request: number of attempts and deadline."""

    def __init__(self, timeout: float, retries: int | None) -> None:
        self.deadline = time.monotonic() + timeout
        self.retries, self.longest = math.inf if retries is None else retries, _FIRST_WAIT

    def remaining(self) -> float:
        """Return seconds until the deadline, at least a millisecond."""
        return max(self.deadline - time.monotonic(), 0.001)

    def pause(self, error: ServerUnavailableError) -> float:
        """Return seconds to wait before the next attempt: exponential backoff with jitter.

        Raises:
            ServerUnavailableError: ``error`` itself, if no attempts or no time are left.
        """
        wait = self.longest * random.uniform(0.5, 1.0)
        if self.retries <= 0 or wait >= self.remaining():
            raise error
        self.retries -= 1
        self.longest = min(2 * self.longest, _LONGEST_WAIT)
        return wait
