"""What the clients share: requests as the library takes them, its errors as ours, and what is tried again."""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from albef.serving import protocol
from albef.serving.requests import Call, InvalidRequestError, ServingError
from albef.serving.shared_memory import Pool, Region

T = TypeVar("T")
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


class LostRegionError(ServingError):
    """The server does not know a region of shared memory: it was started again meanwhile."""


_ERRORS: dict[str, type[ServingError]] = {
    "StatusCode.INVALID_ARGUMENT": InvalidRequestError,
    "StatusCode.UNAVAILABLE": ServerUnavailableError,
    "StatusCode.NOT_FOUND": NoSuchEndpointError,
    "StatusCode.DEADLINE_EXCEEDED": ServerTimeoutError,
}


@contextmanager
def errors(url: str, model: str) -> Iterator[None]:
    """Turns the library's exception into one of ours."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        kind = _ERRORS.get(error.status(), ServingError)
        text = str(error.message()).strip()
        if "unable to find shared memory region" in text.lower():
            kind = LostRegionError
        if kind is NoSuchEndpointError and text.endswith(_NOT_LOADED):
            kind = ServerUnavailableError
        if kind is InvalidRequestError:
            raise kind(text) from error
        raise kind(f"{url}: {model}: {text}") from error


def options() -> list[tuple[str, int]]:
    """Of the channel to the server."""
    return [
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment cannot reach this machine's loopback
        # Within its pause the channel fails without connecting, whoever asks; by itself it grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", int(1000 * _FIRST_WAIT)),
        ("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_WAIT)),
        ("grpc.use_local_subchannel_pool", 1),  # or a new client waits out the pause of another one of the process
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
    ]


def request(call: Call[T], version: int | None = None, region: Region | None = None) -> dict[str, Any]:
    """Arguments of an inference call; its images lie in ``region``, or else in the request."""
    from tritonclient.grpc import InferInput, InferRequestedOutput

    inputs = []
    for tensor in call.spec.inputs:
        if tensor.name in call.arrays:
            value = InferInput(tensor.name, call.arrays[tensor.name].shape, tensor.dtype)
            if region is not None and tensor.name == protocol.ENDPOINT_IMAGE:
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


@contextmanager
def lent(call: Call[T], pool: Pool | None) -> Iterator[Region | None]:
    """Shared memory with the images of a request, if it has any and they are to go that way.

    It is lent again afterwards, but not after a timeout, when the server may still read from it.
    """
    images = call.arrays.get(protocol.ENDPOINT_IMAGE)
    if pool is None or images is None:
        yield None
        return
    try:
        region = pool.take(list(images.reshape(-1)))
    except OSError as error:
        raise SharedMemoryError(f"no shared memory for the images ({error})") from error
    try:
        yield region
    except ServingError as error:
        if not isinstance(error, ServerTimeoutError):
            pool.give(region)
        raise
    pool.give(region)


@contextmanager
def registering(url: str) -> Iterator[None]:
    """Errors of a server that is told of shared memory.

    Raises:
        SharedMemoryError: If it cannot read it.
        ServerUnavailableError, ServerTimeoutError: If there is no server, or no answer.
    """
    try:
        with errors(url, "shared memory"):
            yield
    except (ServerUnavailableError, ServerTimeoutError):
        raise
    except ServingError as error:
        raise SharedMemoryError(
            f"{error}; the server has no access to this machine's shared memory, as on another host or in a container "
            "without --ipc=host"
        ) from error


def answers(call: Call[T], result: Any) -> list[T]:
    """One answer a row."""
    return call.read({name: result.as_numpy(name) for name in call.spec.output_names})


class Attempts:
    """How often and how long a question may be put."""

    def __init__(self, timeout: float, retries: int | None) -> None:
        self.deadline = time.monotonic() + timeout
        self.retries, self.longest = math.inf if retries is None else retries, _FIRST_WAIT
        self.again = False

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self.deadline - time.monotonic(), 0.001)

    def region(self, error: LostRegionError) -> None:
        """Note that shared memory was unknown to the server; it may be so once a question.

        Raises:
            LostRegionError: ``error`` itself, the second time.
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
