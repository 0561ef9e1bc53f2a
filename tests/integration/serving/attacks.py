"""Requests of an attacker, against the service as a whole."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from albef.serving import access
from albef.serving.http_app import MAX_BODY
from albef.serving.proxy import SERVICE
from albef.serving.service import Service
from albef.serving.transport import MAX_MESSAGE
from tests.unit.serving.test_checks import REFUSED, message

Attack = Callable[[Service], object]
"""Sends something, and returns the status of the refusal."""
GRAPHS = ("retrieval_vision", "retrieval_fusion", "vqa_decoder", "entailment_classify", "grounding_heat")
NAMES = ("", "vqa_candidate", "../vqa", "vqa/1", "VQA", "vqa\0", "x" * 100_000, "%2e%2e", "vqa ", "*")
FORBIDDEN = (
    "ModelConfig",
    "ModelStatistics",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)
_HEAD = b"POST /v1/vqa HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
PRIVILEGED = {
    "RepositoryIndex": pb.RepositoryIndexRequest(),
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="vqa"),
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="vqa"),
}
TRITON_PATHS = (
    "/v2",
    "/v2/models/vqa/infer",
    "/v2/models/vqa_decoder/infer",
    "/v2/models/vqa/config",
    "/v2/models/stats",
    "/v2/repository/index",
    "/v2/repository/models/evil/load",
    "/v2/repository/models/vqa/unload",
    "/v2/systemsharedmemory/region/evil/register",
    "/v2/cudasharedmemory/region/evil/register",
    "/v2/trace/setting",
    "/v2/logging",
    "/v1/vqa_decoder",
    "/v1/../v1/vqa/",
    "/static-offline-docs/../../../../../etc/passwd",
    "/static-offline-docs/%2e%2e/%2e%2e/core.py",
)
BODIES: dict[str, bytes] = {
    "no JSON": b"\x80\x81\x82",
    "half a JSON": b'{"texts": ["red"',
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "deep value": b'{"texts": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "a number": b"1",
    "huge number": b'{"texts": ["red"], "k": ' + b"9" * 4_000 + b"}",
    "huge exponent": b'{"texts": ["red"], "k": 1e999999999}',
    "not a number": b'{"texts": ["red"], "k": NaN}',
    "unknown key": b'{"texts": ["red"], "having": "1=1"}',
    "image of junk": json.dumps({"images": [base64.b64encode(b"x" * 99).decode()]}).encode(),
    "path of a file": b'{"images": ["/etc/passwd"]}',
    "address": b'{"images": ["http://127.0.0.1:1/"]}',
    "lone surrogate": b'{"texts": ["\\ud800"]}',
    "many keys": json.dumps(dict.fromkeys(map(str, range(100_000)))).encode(),
    "null": b'{"texts": null, "images": null}',
    "an object as text": b'{"texts": [{"$gt": ""}]}',
    "no rows": b'{"texts": []}',
}


@contextmanager
def channel(service: Service, **options: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(
        service.grpc_url, options=[(f"grpc.{key}", value) for key, value in options.items()]
    ) as it:
        yield it


def call(service: Service, method: str, data: bytes, metadata: Any = (), **options: Any) -> str:
    """Send bytes to a method, and return the status."""
    compression = options.pop("compression", None)
    with channel(service, max_send_message_length=2**30, enable_retries=0, **options) as connected:
        ask = connected.unary_unary(f"/{SERVICE}/{method}" if "/" not in method else method)
        try:
            ask(data, timeout=30, metadata=metadata, compression=compression)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def changed(name: str) -> Attack:
    """Return an attack by a request that `albef.serving.checks` refuses."""

    def attack(service: Service) -> str:
        request = message("grounding")
        REFUSED[name][0](request)
        return call(service, "ModelInfer", request.SerializeToString())

    return attack


def named(name: str) -> Attack:
    return lambda service: call(service, "ModelInfer", pb.ModelInferRequest(model_name=name).SerializeToString())


def with_key(method: str, key: str | None) -> Attack:
    metadata = [(access.ADMIN_HEADER, key)] if key is not None else []
    return lambda service: call(service, method, PRIVILEGED[method].SerializeToString(), metadata)


def load_with_files(service: Service) -> str:
    """Load a model of the attacker's code, even with the administrator's key."""
    request = pb.RepositoryModelLoadRequest(model_name="evil")
    request.parameters["config"].string_param = '{"backend": "python", "max_batch_size": 0}'
    request.parameters["file:1/model.py"].bytes_param = b"import os; os.mknod('evil')"
    key = access.key_of(service.grpc_url)
    return call(service, "RepositoryModelLoad", request.SerializeToString(), [(access.ADMIN_HEADER, str(key))])


def compressed(service: Service) -> str:
    request = message("grounding")
    request.raw_input_contents[0] = struct.pack("<I", 20_000_000) + bytes(20_000_000)
    return call(service, "ModelInfer", request.SerializeToString(), compression=grpc.Compression.Gzip)


def streamed(service: Service) -> str:
    with channel(service) as connected:
        stream = connected.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        try:
            list(stream(iter([message("vqa").SerializeToString()]), timeout=30))
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def sent(port: int, *parts: bytes, seconds: float = 5.0) -> bytes:
    """Send raw bytes to a port, and return the beginning of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection, suppress(OSError):
        for part in parts:
            connection.sendall(part)
        return connection.recv(200)
    return b""


def request(service: Service, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
    """Send an HTTP request, and return the status; 0 if the connection was closed."""
    assert service.http_port is not None
    connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=30)
    given = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        connection.request(method, path, body, given)
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def posted(body: bytes) -> Attack:
    return lambda service: request(service, "POST", "/v1/retrieval", body)


def tiny_chunks(service: Service) -> bytes:
    assert service.http_port is not None
    return sent(
        service.http_port,
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        b"1\r\n[\r\n" * 600_000,
        b"0\r\n\r\n",
        seconds=60,
    )


def slow_body(service: Service) -> bytes:
    """Send a body that never ends, and go away."""
    assert service.http_port is not None
    return sent(service.http_port, _HEAD + b"Content-Length: 999\r\n\r\n{", seconds=0.5)


def half_open(service: Service) -> int:
    """Hold many connections that say nothing, to both ports, while a request is answered."""
    ports = [service.grpc_port, service.http_port] * 100
    held = [socket.create_connection(("127.0.0.1", port)) for port in ports]
    try:
        return request(service, "GET", "/health/ready")
    finally:
        for connection in held:
            connection.close()


def unfinished(service: Service) -> int:
    """Hold many requests whose message never ends."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
    path = f"/{SERVICE}/ModelInfer".encode()
    fields = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x41\x01a\x5f\x10application/grpc"
    held = []
    for _ in range(100):
        connection = socket.create_connection(("127.0.0.1", service.grpc_port))
        held.append(connection)
        connection.sendall(preface + len(fields).to_bytes(3, "big") + b"\x01\x04\0\0\0\x01" + fields)
        connection.sendall((5).to_bytes(3, "big") + b"\0\0\0\0\0\x01" + b"\0\0\xff\xff\xff")
    try:
        time.sleep(0.2)
        return request(service, "GET", "/health/ready")
    finally:
        for connection in held:
            connection.close()


GRPC: dict[str, tuple[Attack, str]] = {
    **{f"request: {name}": (changed(name), "INVALID_ARGUMENT") for name in REFUSED},
    **{f"graph: {name}": (named(name), "NOT_FOUND") for name in GRAPHS},
    **{f"name: {name[:20]!r}": (named(name), "NOT_FOUND") for name in NAMES},
    **{f"method: {name}": (lambda service, name=name: call(service, name, b""), "UNIMPLEMENTED") for name in FORBIDDEN},
    **{f"without a key: {name}": (with_key(name, None), "PERMISSION_DENIED") for name in PRIVILEGED},
    **{f"with another key: {name}": (with_key(name, "0" * 64), "PERMISSION_DENIED") for name in PRIVILEGED},
    **{f"with an empty key: {name}": (with_key(name, ""), "PERMISSION_DENIED") for name in PRIVILEGED},
    "files with the key": (load_with_files, "INVALID_ARGUMENT"),
    "stream": (streamed, "UNIMPLEMENTED"),
    "reflection": (
        lambda s: call(s, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b""),
        "UNIMPLEMENTED",
    ),
    "other service": (lambda s: call(s, "/evil.Service/Method", b""), "UNIMPLEMENTED"),
    "no message": (lambda s: call(s, "ModelInfer", b"\xff\xff\xff"), "UNKNOWN"),
    "empty message": (lambda s: call(s, "ModelInfer", b""), "NOT_FOUND"),
    "compressed": (compressed, "UNIMPLEMENTED"),
    "too large": (lambda s: call(s, "ModelInfer", bytes(MAX_MESSAGE + 1)), "RESOURCE_EXHAUSTED"),
    "long metadata": (lambda s: call(s, "ServerLive", b"", [("x", "y" * 100_000)]), "RESOURCE_EXHAUSTED"),
    "metadata of another graph": (
        lambda s: call(s, "ModelMetadata", pb.ModelMetadataRequest(name="vqa_decoder").SerializeToString()),
        "NOT_FOUND",
    ),
}
"""Attacks on the gRPC port, with the status of the refusal."""

HTTP: dict[str, tuple[Attack, tuple[int, ...]]] = {
    **{f"body: {name}": (posted(body), (400, 422)) for name, body in BODIES.items()},
    **{f"GET {path}": (lambda s, path=path: request(s, "GET", path), (404, 405)) for path in TRITON_PATHS},
    **{f"POST {path}": (lambda s, path=path: request(s, "POST", path, b"{}"), (404, 405)) for path in TRITON_PATHS},
    **{
        f"method {method}": (lambda s, method=method: request(s, method, "/v1/vqa"), (405,))
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
    },
    "gzip": (
        lambda s: request(s, "POST", "/v1/vqa", gzip.compress(bytes(100_000_000)), Content_Encoding="gzip"),
        (415,),
    ),
    "form": (
        lambda s: request(s, "POST", "/v1/vqa", b"a=1", Content_Type="application/x-www-form-urlencoded"),
        (415,),
    ),
    "text of a web page": (lambda s: request(s, "POST", "/v1/vqa", b"{}", Content_Type="text/plain"), (415,)),
    "origin": (lambda s: request(s, "POST", "/v1/vqa", b"{}", Origin="https://evil.example"), (403,)),
    "origin null": (lambda s: request(s, "POST", "/v1/vqa", b"{}", Origin="null"), (403,)),
    "host": (lambda s: request(s, "GET", "/health", Host="evil.example"), (400,)),
    "too large": (lambda s: request(s, "POST", "/v1/vqa", b"[" * (MAX_BODY + 1)), (413, 0)),
    "claimed size": (lambda s: request(s, "POST", "/v1/vqa", b"{}", Content_Length="9" * 30), (400, 413, 0)),
    "negative size": (lambda s: request(s, "POST", "/v1/vqa", b"{}", Content_Length="-1"), (400, 413)),
    "long header": (lambda s: request(s, "GET", "/health", X="y" * 200_000), (400, 431, 0)),
    "many headers": (
        lambda s: request(s, "GET", "/health", **{f"X{n}": "y" for n in range(90)}),
        (200, 400, 431),
    ),
    "long path": (lambda s: request(s, "GET", "/" + "a" * 60_000), (400, 404, 414, 0)),
    "image of junk": (
        lambda s: request(
            s, "POST", "/v1/retrieval", json.dumps({"images": [base64.b64encode(b"x" * 99).decode()]}).encode()
        ),
        (400,),
    ),
    "silent connections": (half_open, (200,)),
    "unfinished messages": (unfinished, (200,)),
}
"""Attacks on the HTTP port, with the statuses of the refusal."""

RAW: dict[str, Attack] = {
    "tiny chunks": tiny_chunks,
    "slow body": slow_body,
    "junk to gRPC": lambda s: sent(s.grpc_port, b"\xff" * 100_000, seconds=1),
    "HTTP to gRPC": lambda s: sent(
        s.grpc_port, b"POST /v2/repository/models/x/load HTTP/1.1\r\nHost: a\r\n\r\n", seconds=1
    ),
    "TLS to gRPC": lambda s: sent(s.grpc_port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), seconds=1),
    "junk to HTTP": lambda s: sent(int(s.http_port or 0), b"\xff" * 100_000, seconds=1),
    "endless header": lambda s: sent(int(s.http_port or 0), b"GET / HTTP/1.1\r\nA: " + b"b" * 10_000_000, seconds=5),
    "smuggled": lambda s: sent(
        int(s.http_port or 0),
        _HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
        seconds=1,
    ),
    "HTTP/2 frames": lambda s: sent(
        s.grpc_port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + (b"\xff\xff\xff\x00" + bytes(5)) * 100, seconds=1
    ),
    "HTTP/2 pings": lambda s: sent(
        s.grpc_port,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5),
        (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 20_000,
        seconds=2,
    ),
}
"""Attacks by bytes that are no requests; any answer will do."""
