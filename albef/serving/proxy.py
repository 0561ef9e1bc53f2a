"""gRPC proxy in front of Triton: the only way in.

It speaks the Open Inference Protocol, so that clients of Triton work with it. It answers for the endpoints only: the
graphs behind them, shared memory, traces and statistics are not reachable. Requests that the specification of an
endpoint does not allow are refused (`albef.serving.checks`), as are those beyond the server's capacity
(`albef.serving.admission`). Administrators load and unload models with a key, never with files of their own.

`albef.serving.service` runs ``python -m albef.serving.proxy`` and sends it lines of JSON: ``{"health": ...}``, and
``{"stop": SECONDS}``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from albef.serving import access, checks, part
from albef.serving.access import Tls
from albef.serving.admission import Admission, CapacityError
from albef.serving.protocol import BROKEN, ModelSpec
from albef.serving.requests import InvalidRequestError
from albef.serving.transport import MAX_ANSWER, MAX_MESSAGE, trace_context
from albef.tasks import registry

_logger = logging.getLogger(__name__)
SERVICE = "inference.GRPCInferenceService"
PUSHBACK = "grpc-retry-pushback-ms"
"""Metadata of a refusal: milliseconds after which a gRPC client tries again by itself."""
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # messages of grpc.health.v1
_ADMIN_TIMEOUT = 600.0
_CHANNEL = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_ANSWER),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
_SERVER = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_ANSWER),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a compressed message may inflate without limit
    ("grpc.so_reuseport", 0),
]


class RefusedError(Exception):
    """The request is answered with an error.

    Args:
        code: gRPC status.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code, self.retry_after = code, retry_after


@dataclass
class State:
    """State of the server, which the supervisor reports.

    Args:
        health: Readiness of each endpoint.
        stopping: Whether new requests are refused.
    """

    health: dict[str, bool] = field(default_factory=dict)
    stopping: bool = False

    def ready(self, endpoint: str | None = None) -> bool:
        """Return whether an endpoint answers, or all of them do."""
        if self.stopping:
            return False
        return bool(self.health) and all(self.health.values()) if endpoint is None else self.health.get(endpoint, False)


class Proxy:
    """Handlers of the service.

    Args:
        channel: Channel to Triton.
        endpoints: Specifications of the endpoints that clients may ask.
        tokens: Tokens of clients; empty if none is required.
        admin_keys: Keys of administrators.
        timeout: Most seconds for an answer.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        endpoints: dict[str, ModelSpec],
        tokens: Sequence[str],
        admin_keys: Sequence[str],
        admission: Admission,
        timeout: float,
    ) -> None:
        self.channel, self.endpoints = channel, endpoints
        self.tokens, self.admin_keys = tokens, admin_keys
        self.admission, self.timeout = admission, timeout
        self.state = State()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Return the handlers of all methods; others are answered with UNIMPLEMENTED."""
        methods = {
            "ModelInfer": (self.infer, pb.ModelInferRequest),
            "ModelMetadata": (self.model_metadata, pb.ModelMetadataRequest),
            "ModelReady": (self.model_ready, pb.ModelReadyRequest),
            "ServerLive": (self.server_live, pb.ServerLiveRequest),
            "ServerReady": (self.server_ready, pb.ServerReadyRequest),
            "ServerMetadata": (self.server_metadata, pb.ServerMetadataRequest),
            "RepositoryIndex": (self.repository_index, pb.RepositoryIndexRequest),
            "RepositoryModelLoad": (self.model_load, pb.RepositoryModelLoadRequest),
            "RepositoryModelUnload": (self.model_unload, pb.RepositoryModelUnloadRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(_answering(method), request.FromString, _serialized)
            for name, (method, request) in methods.items()
        }
        health = {"Check": grpc.unary_unary_rpc_method_handler(_answering(self.health), None, None)}
        return [
            grpc.method_handlers_generic_handler(SERVICE, handlers),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        ]

    async def forward(self, method: str, request: Any, timeout: float, headers: Mapping[str, str] | None = None) -> Any:
        """Send a request to Triton and return its answer.

        The answer to an inference request stays serialized: the proxy has no use for it.
        """
        answer = None if method == "ModelInfer" else getattr(pb, f"{method}Response").FromString
        call = self.channel.unary_unary(f"/{SERVICE}/{method}", type(request).SerializeToString, answer)
        return await call(request, timeout=timeout, metadata=tuple((headers or {}).items()))

    async def infer(self, request: Any, context: Any) -> Any:
        """Answer an inference request."""
        self._identify(context)
        spec = self._endpoint(request.model_name)
        try:
            checks.check(request, spec)
            if checks.low_priority(request):
                async with self.admission.turn(spec.name, request.ByteSize(), self._remaining(context)):
                    return await self._infer(request, context, size=0)
            return await self._infer(request, context, request.ByteSize())
        except InvalidRequestError as error:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        except CapacityError as error:
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), error.retry_after) from error

    async def _infer(self, request: Any, context: Any, size: int) -> Any:
        timeout = self._remaining(context)
        with self.admission.admit(request.model_name, size, timeout):
            request.parameters.clear()
            # Triton drops requests whose time has passed while they waited.
            request.parameters["timeout"].int64_param = int(timeout * 1e6)
            return await self.forward("ModelInfer", request, timeout, trace_context(_metadata(context)))

    def _remaining(self, context: Any) -> float:
        remaining = context.time_remaining()
        timeout = self.timeout if remaining is None else min(float(remaining), self.timeout)
        if timeout <= 0:
            raise RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        return timeout

    def _identify(self, context: Any) -> None:
        if self.state.stopping:
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        if not access.admits(_metadata(context), self.tokens):
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, "expected a valid token: authorization: Bearer TOKEN")

    def _administrator(self, context: Any) -> None:
        if not access.same(_metadata(context).get(access.ADMIN_HEADER), self.admin_keys):
            text = f"administrators only: expected a valid key in {access.ADMIN_HEADER}"
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, text)

    def _endpoint(self, name: str) -> ModelSpec:
        if name not in self.endpoints:
            text = f"unknown endpoint {name[:40]!r}, expected one of {', '.join(self.endpoints)}"
            raise RefusedError(grpc.StatusCode.NOT_FOUND, text)
        return self.endpoints[name]

    async def model_metadata(self, request: Any, context: Any) -> Any:
        """Answer with the inputs and outputs of an endpoint."""
        self._identify(context)
        self._endpoint(request.name)
        return await self.forward("ModelMetadata", request, self._remaining(context))

    async def model_ready(self, request: Any, context: Any) -> Any:
        """Answer whether an endpoint answers."""
        return pb.ModelReadyResponse(ready=self.state.ready(request.name))

    async def server_live(self, request: Any, context: Any) -> Any:
        """Answer whether the server is running."""
        return pb.ServerLiveResponse(live=not self.state.stopping)

    async def server_ready(self, request: Any, context: Any) -> Any:
        """Answer whether all endpoints answer."""
        return pb.ServerReadyResponse(ready=self.state.ready())

    async def health(self, request: bytes, context: Any) -> bytes:
        """Answer as `server_ready`, by the health protocol of gRPC."""
        return _SERVING if self.state.ready() else _NOT_SERVING

    async def server_metadata(self, request: Any, context: Any) -> Any:
        """Answer with name and version of the server."""
        self._identify(context)
        return await self.forward("ServerMetadata", request, self._remaining(context))

    async def repository_index(self, request: Any, context: Any) -> Any:
        """Answer an administrator with the states of all models."""
        self._administrator(context)
        return await self.forward("RepositoryIndex", request, _ADMIN_TIMEOUT)

    async def model_load(self, request: Any, context: Any) -> Any:
        """Load a model of the repository for an administrator."""
        self._administrator(context)
        if request.parameters:  # configurations and files, which would replace the code of a model
            text = "a model is loaded as it is in the repository, expected no parameters"
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, text)
        return await self.forward("RepositoryModelLoad", request, _ADMIN_TIMEOUT)

    async def model_unload(self, request: Any, context: Any) -> Any:
        """Unload a model for an administrator."""
        self._administrator(context)
        return await self.forward("RepositoryModelUnload", request, _ADMIN_TIMEOUT)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, and wait for those in progress."""
        self.state.stopping = True
        deadline = asyncio.get_running_loop().time() + seconds
        while self.admission.total and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)


def _metadata(context: Any) -> dict[str, Any]:
    return dict(context.invocation_metadata() or ())


def _serialized(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


def _answering(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """Return a handler that answers exceptions with a status."""

    async def handle(request: Any, context: Any) -> Any:
        try:
            return await method(request, context)
        except RefusedError as error:
            metadata = ((PUSHBACK, str(int(1000 * error.retry_after))),) if error.retry_after is not None else ()
            await context.abort(error.code, str(error), metadata)
        except grpc.aio.AioRpcError as error:  # Triton's own
            details = error.details() or ""
            if any(text in details for text in BROKEN):  # the watchdog loads the model again
                await context.abort(grpc.StatusCode.UNAVAILABLE, details)
            await context.abort(error.code(), details)

    return handle


async def _listen(proxy: Proxy, arguments: argparse.Namespace) -> tuple[grpc.aio.Server, int]:
    """Start to answer; return the server and its port, 0 without a public address."""
    server = grpc.aio.server(options=_SERVER)
    server.add_generic_rpc_handlers(proxy.handlers())
    server.add_insecure_port(arguments.private)
    files, address, port = Tls(arguments.ca, arguments.cert, arguments.key).read(), arguments.address, 0
    if address is None:
        pass
    elif files["cert"]:
        pair = [(files["key"], files["cert"])]
        credentials = grpc.ssl_server_credentials(pair, files["ca"], require_client_auth=files["ca"] is not None)
        port = server.add_secure_port(address, credentials)
    else:
        port = server.add_insecure_port(address)
    await server.start()
    return server, port


async def _commands(proxy: Proxy, lines: asyncio.StreamReader) -> float:
    """Follow the supervisor's commands until it is gone or asks to stop.

    Returns:
        Seconds to wait for requests in progress.
    """
    while line := await lines.readline():
        command = json.loads(line)
        if "stop" in command:
            return float(command["stop"])
        proxy.state.health = command["health"]
    return 0.0


async def run(arguments: argparse.Namespace) -> None:
    """Serve until the supervisor asks to stop, or is gone."""
    lines = await part.commands()
    keys = json.loads(await lines.readline())  # not on the command line, which every user can read
    async with grpc.aio.insecure_channel(arguments.triton, options=_CHANNEL) as channel:
        known = registry.endpoints()
        endpoints = {name: known[name] for name in arguments.endpoints}
        admission = Admission(arguments.max_requests, arguments.max_bytes)
        proxy = Proxy(channel, endpoints, keys["tokens"], keys["admin"], admission, arguments.timeout)
        server, port = await _listen(proxy, arguments)
        print(port, flush=True)
        await proxy.drain(await _commands(proxy, lines))
        await server.stop(3.0)  # answers that are being sent; and requests that never become complete


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--triton", required=True)
    parser.add_argument("--private", required=True, help="socket for other processes of the service")
    parser.add_argument("--address", help="address and port for clients")
    parser.add_argument("--max-requests", type=int, required=True)
    parser.add_argument("--max-bytes", type=int, required=True)


if __name__ == "__main__":
    sys.exit(part.run("albef.serving.proxy", __doc__, _add_options, run))
