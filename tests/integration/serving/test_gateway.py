"""The real nginx as the gateway in front of a real service."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb

from albef import cli
from albef.config import GatewayConfig
from albef.serving.access import Tls
from albef.serving.client import BusyError, Client, DeniedError, NoSuchEndpointError, ServingError
from albef.serving.proxy import SERVICE
from albef.serving.server import TritonServer, free_ports
from albef.serving.service import Access, Service
from albef.tasks.vqa import client as vqa
from tests.integration.serving.test_lifecycle import listening
from tests.integration.serving.test_service import TEXT, TOKEN, pki

__all__ = ["pki"]
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None and "CI" not in os.environ, reason="nginx is not installed")
LIMITS = GatewayConfig(requests_per_second=20, burst=20, connections=40, body_timeout=1)
OTHER = TOKEN + "-other"


@pytest.fixture(scope="module")
def gateway(retrieval_alone, runtime, pki) -> Iterator[Service]:
    grpc_port, http_port = free_ports(2)
    allowed = Access(grpc_port=grpc_port, http_port=http_port, tls=pki.server, tokens=[TOKEN, OTHER], gateway=LIMITS)
    with Service(TritonServer(retrieval_alone, runtime=runtime), allowed) as running:
        yield running


@pytest.fixture(autouse=True)
def rested() -> Iterator[None]:
    """Let the clients' budgets recover."""
    yield
    time.sleep(LIMITS.burst / LIMITS.requests_per_second)


def curl(gateway: Service, pki, path: str, *options: str, token: str | None = TOKEN) -> tuple[int, str]:
    """Return status and body of a request by curl."""
    command = ["curl", "--silent", "--cacert", str(pki.file("ca")), "--write-out", "\n%{http_code}", *options]
    command += ["--header", f"Authorization: Bearer {token}"] if token else []
    done = subprocess.run([*command, f"{gateway.http_url}{path}"], capture_output=True, text=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_nginx_alone_listens(gateway):
    parts = {name: listening(part.pid) for name, part in gateway._parts.items()}
    ports = {("127.0.0.1", gateway.grpc_port), ("127.0.0.1", gateway.http_port)}
    assert parts == {"proxy": set(), "http_app": set(), "nginx": ports}
    configuration = gateway.server.folder / "gateway" / "nginx.conf"
    assert configuration.stat().st_mode & 0o077 == 0
    lines = " ".join(psutil.Process(gateway._parts["nginx"].pid).cmdline())
    assert TOKEN not in lines


def test_clients_are_answered(gateway, pki, client):
    expected = client.retrieve(TEXT)
    with Client(gateway.grpc_url, tls=pki.file("ca"), token=TOKEN) as own:
        assert own.retrieve(TEXT) == expected
        assert own.ready()
    status, body = curl(gateway, pki, "/v1/retrieval", "--json", json.dumps({"texts": [TEXT]}))
    assert status == 200
    assert [each["id"] for each in json.loads(body)["answers"][0]] == [match.id for match in expected]
    assert curl(gateway, pki, "/health/ready", token=None)[0] == 200
    assert curl(gateway, pki, "/docs", token=None)[0] == 200


@pytest.mark.parametrize("token", [None, TOKEN + "x", "token1", "certificate"])
def test_other_tokens_are_refused(gateway, pki, token):
    with Client(gateway.grpc_url, tls=pki.file("ca"), token=token) as other, pytest.raises(DeniedError):
        other.retrieve(TEXT)
    assert curl(gateway, pki, "/v1/retrieval", "--json", "{}", token=token)[0] == 401


def test_administration_and_graphs_are_not_reachable(gateway, pki):
    files = {"root_certificates": pki.file("ca").read_bytes()}
    with grpc.secure_channel(gateway.grpc_url, grpc.ssl_channel_credentials(**files)) as channel:
        metadata = [("authorization", f"Bearer {TOKEN}"), ("albef-admin-key", gateway._key)]

        def status(method: str, data: bytes = b"") -> str:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/{method}")(data, timeout=10, metadata=metadata)
            return str(caught.value.code().name)

        for name in ("RepositoryIndex", "RepositoryModelLoad", "SystemSharedMemoryStatus", "TraceSetting", "X"):
            assert status(f"{SERVICE}/{name}") == "UNIMPLEMENTED"
        assert status("grpc.reflection.v1.ServerReflection/ServerReflectionInfo") == "UNIMPLEMENTED"
        graph = pb.ModelInferRequest(model_name="retrieval_fusion").SerializeToString()
        assert status(f"{SERVICE}/ModelInfer", graph) == "NOT_FOUND"
    for path in ("/", "/v2/models/vqa/infer", "/v2/repository/index", "/metrics", "/static-offline-docs/../x"):
        assert curl(gateway, pki, path, "--path-as-is")[0] == 404
    assert curl(gateway, pki, "/health", "--request", "DELETE")[0] == 403
    with Client(gateway.grpc_url, tls=pki.file("ca"), token=TOKEN) as own, pytest.raises(NoSuchEndpointError):
        own.ask(vqa.request(b"image", ["what"]))


def test_bodies_are_bounded_and_not_compressed(gateway, pki, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(40 * 2**20)
    post = ["--header", "Content-Type: application/json", "--data-binary", f"@{large}"]
    assert curl(gateway, pki, "/v1/retrieval", *post)[0] == 413
    zipped = ["--json", '{"texts": ["red"]}', "--header", "Content-Encoding: gzip"]
    assert curl(gateway, pki, "/v1/retrieval", *zipped)[0] == 415
    files = {"root_certificates": pki.file("ca").read_bytes()}
    options = {"metadata": [("authorization", f"Bearer {TOKEN}")], "compression": grpc.Compression.Gzip}
    connected = grpc.secure_channel(gateway.grpc_url, grpc.ssl_channel_credentials(**files))
    with connected as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(bytes(1000), timeout=10, **options)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_client_above_its_rate_is_refused_and_others_are_not(gateway, pki):
    outcomes: Counter[str] = Counter()

    def ask(token: str) -> None:
        with Client(gateway.grpc_url, tls=pki.file("ca"), token=token, retries=0) as own:
            for _ in range(15):
                try:
                    own.retrieve(TEXT, rerank=False)
                    outcomes["answered"] += 1
                except BusyError:
                    outcomes["busy"] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, [TOKEN] * 8))
    assert outcomes["busy"] > 10
    assert outcomes["answered"] >= LIMITS.burst
    assert outcomes.total() == 120


def test_slow_clients_are_cut_off(gateway, pki):
    context = ssl.create_default_context(cafile=str(pki.file("ca")))
    raw = socket.create_connection(("127.0.0.1", gateway.http_port))
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as connection:
        head = f"POST /v1/retrieval HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{{".encode())
        connection.settimeout(10)
        began = time.monotonic()
        assert b" 408 " in (connection.recv(100) or b" 408 ")
        assert time.monotonic() - began < 5


def test_silent_connections_do_not_keep_others_out(gateway, pki):
    held = [socket.create_connection(("127.0.0.1", gateway.grpc_port)) for _ in range(200)]
    try:
        with Client(gateway.grpc_url, tls=pki.file("ca"), token=TOKEN) as own:
            assert own.retrieve(TEXT)
    finally:
        for connection in held:
            connection.close()


def test_a_killed_gateway_is_replaced(gateway, pki):
    watcher = ThreadPoolExecutor(1)
    running = watcher.submit(gateway.watch)
    try:
        old = gateway._parts["nginx"].pid
        psutil.Process(old).kill()
        with Client(gateway.grpc_url, tls=pki.file("ca"), token=TOKEN, timeout=30) as own:
            deadline = time.monotonic() + 20
            while gateway._parts["nginx"].pid == old:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert own.retrieve(TEXT)
    finally:
        gateway.stopping.set()
        running.result(20)
        gateway.stopping.clear()
        watcher.shutdown()


def test_the_configuration_for_a_container_is_accepted_by_nginx(pki, tmp_path):
    tokens, out = tmp_path / "tokens", tmp_path / "nginx.conf"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    command = ["gateway", "--tls-cert", str(pki.file("server")), "--tls-key", str(pki.file("server-key"))]
    command += ["--tokens", str(tokens), "--folder", str(tmp_path), "--out", str(out)]
    assert cli.main(command) == 0
    assert out.stat().st_mode & 0o077 == 0
    done = subprocess.run([str(NGINX), "-t", "-c", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_gateway_without_identified_clients_is_refused(pki, tmp_path: Path, capsys):
    command = ["gateway", "--tls-cert", "cert", "--tls-key", "key", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2
    assert "--tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for tls in (Tls(), pki.server):
        with pytest.raises(ValueError, match="gateway"):
            Access(tls=tls, gateway=LIMITS, grpc_port=1, http_port=2)
    assert issubclass(DeniedError, ServingError)
