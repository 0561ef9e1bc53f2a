"""HTTP side of the service: JSON in and out, its OpenAPI page, and health.

Triton's own HTTP server is off, because some requests crash it. Every request goes through the gRPC proxy, so the same
checks and limits hold. `albef.serving.service` runs ``python -m albef.serving.http_app`` and sends it lines of JSON
with the health of the service.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import sys
import typing
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, Query, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, create_model
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from albef.serving import access, part, requests
from albef.serving.access import Tls
from albef.serving.client import AsyncClient
from albef.serving.requests import ImageInput, InvalidRequestError, ServingError
from albef.serving.transport import (
    MAX_MESSAGE,
    BusyError,
    DeniedError,
    NoSuchEndpointError,
    ServerTimeoutError,
    ServerUnavailableError,
    trace_context,
)
from albef.tasks import registry

MAX_BODY = MAX_MESSAGE * 4 // 3
"""Largest body in bytes: images in base64."""
_LONGEST_BODY_SECONDS = 30.0
_STATUS: dict[type[ServingError], int] = {
    InvalidRequestError: 400,
    DeniedError: 401,
    NoSuchEndpointError: 404,
    BusyError: 429,
    ServerUnavailableError: 503,
    ServerTimeoutError: 504,
}


class _Guard:
    """Refuses bodies that are too large or too slow, and requests of foreign web pages.

    Args:
        origins: Origins of web pages that may send requests, besides those of this server.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        body = b""
        if refusal is None:
            try:
                body = await asyncio.wait_for(_read(receive), _LONGEST_BODY_SECONDS)
            except (ValueError, TimeoutError) as error:
                refusal = (413, str(error)) if isinstance(error, ValueError) else (408, "the body arrives too slowly")
        if refusal is not None:
            await JSONResponse({"detail": refusal[1]}, refusal[0], {"Connection": "close"})(scope, receive, send)
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        origin, own = headers.get("origin"), f"{scope['scheme']}://{headers.get('host', '')}"
        if origin not in (None, own, *self.origins):
            return 403, "requests of other web pages are not answered"
        length = headers.get("content-length", "0")
        if headers.get("content-encoding", "identity") != "identity":
            return 415, "a compressed body is not read"
        if not length.isdecimal() or int(length) > MAX_BODY:
            return 413, f"the body has {length} bytes, expected at most {MAX_BODY}"
        if scope["method"] == "POST" and not headers.get("content-type", "").startswith("application/json"):
            return 415, "expected Content-Type: application/json"
        return None


async def _read(receive: Receive) -> bytes:
    """Return the body of a request.

    Raises:
        ValueError: If it is too large.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1]) + 64  # many tiny parts cost time, too
        if size > MAX_BODY:
            raise ValueError(f"the body is too large, expected at most {MAX_BODY} bytes in few parts")
        if not message.get("more_body", False):
            return b"".join(parts)


class Answers(BaseModel):
    """Answers to a request, one per row."""

    answers: list[Any]


def _body(endpoint: str) -> type[BaseModel]:
    """Return the model of a request's body: the arguments of ``request`` in the endpoint's ``client`` module."""
    function = registry.client(endpoint).request
    hints = typing.get_type_hints(function)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[name] = (_json_type(hints[name]), Field(default))
    return create_model(f"{endpoint.title()}Request", __config__=ConfigDict(extra="forbid"), **fields)


def _json_type(hint: Any) -> Any:
    """Return the type of an argument in JSON.

    Images are base64, and never paths of this machine's files.
    """
    if hint == ImageInput:
        return Base64Bytes
    arguments = typing.get_args(hint)
    if not arguments:
        return hint
    if set(typing.get_args(ImageInput)) <= set(arguments):  # an optional image
        return Base64Bytes | None
    origin = typing.get_origin(hint)
    parts = tuple(_json_type(each) for each in arguments)
    return typing.Union[parts] if origin is not Sequence else list[parts[0]]  # type: ignore[valid-type]  # noqa: UP007


def create_app(client: AsyncClient, endpoints: Sequence[str], health: dict[str, Any]) -> FastAPI:
    """Create the application.

    Args:
        client: Client of the proxy.
        endpoints: Endpoints to offer.
        health: State of the service, which may change; see `albef.serving.service.Service.report`.
    """
    app = FastAPIOffline(
        title="ALBEF", description="Retrieval, question answering and more about images.", redoc_url=None
    )
    for name in endpoints:
        text = registry.endpoint(name).ask_help.capitalize()
        app.post(f"/v1/{name}", summary=text, response_model=Answers, name=name)(_route(client, name))

    @app.get("/health", summary="Return the state of all endpoints, with versions of model and index, and the device")
    async def state() -> dict[str, Any]:
        return health

    @app.get("/health/live", summary="Answer with status 200 as long as the service runs")
    async def live() -> Response:
        return Response()

    @app.get("/health/ready", summary="Answer with status 200 if all endpoints answer, otherwise with 503")
    async def ready() -> Response:
        return Response(status_code=200 if health.get("ready") else 503)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Any, error: RequestValidationError) -> Response:
        places = [".".join(map(str, each["loc"][1:])) or "body" for each in error.errors()]
        details = [f"{place}: {each['msg']}" for place, each in zip(places, error.errors(), strict=True)]
        return JSONResponse({"detail": "; ".join(details[:5])}, 400)  # without the input, which may be large

    @app.exception_handler(ServingError)
    async def failed(request: Any, error: ServingError) -> Response:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 502)
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse({"detail": str(error)}, status, headers)

    return app


def _route(client: AsyncClient, endpoint: str) -> Callable[..., Awaitable[Answers]]:
    """Return the handler of an endpoint."""
    model = _body(endpoint)

    async def answer(
        body: Any,
        authorization: str | None = Header(None),
        traceparent: str | None = Header(None),
        priority: int = Query(1, ge=1, le=2, description="2: other requests overtake this one"),
    ) -> Answers:
        arguments = {name: getattr(body, name) for name in type(body).model_fields}
        token = (authorization or "").partition(" ")[2]
        headers = access.headers(token) | trace_context({"traceparent": traceparent})
        answers = await client.ask(requests.build(endpoint, **arguments), headers=headers, priority=priority)
        return Answers(answers=requests.plain(answers))

    answer.__annotations__["body"] = model
    return answer


async def run(arguments: argparse.Namespace) -> None:
    """Serve until the supervisor is gone."""
    lines = await part.commands()
    health: dict[str, Any] = {}
    async with AsyncClient(arguments.grpc, timeout=arguments.timeout, retries=0) as client:
        app = create_app(client, arguments.endpoints, health)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=arguments.hosts)
        app.add_middleware(_Guard, origins=arguments.origins)
        tls = Tls(arguments.ca, arguments.cert, arguments.key)
        target: dict[str, Any] = {"host": arguments.address, "port": arguments.port}
        if arguments.socket:
            target = {"uds": str(arguments.socket)}
        if tls.cert:
            target |= {"ssl_certfile": tls.cert, "ssl_keyfile": tls.key}
        if tls.ca:
            target |= {"ssl_ca_certs": str(tls.ca), "ssl_cert_reqs": 2}
        config = uvicorn.Config(
            app, **target, log_level="warning", access_log=False, limit_concurrency=256, timeout_keep_alive=15
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            print(server.servers[0].sockets[0].getsockname()[1] if not arguments.socket else 0, flush=True)
        while line := await lines.readline():
            health.clear()
            health.update(json.loads(line))
        server.should_exit = True
        await serving


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--hosts", nargs="+", required=True)
    parser.add_argument("--origins", nargs="*", default=[])


if __name__ == "__main__":
    sys.exit(part.run("albef.serving.http_app", __doc__, _add_options, run))
