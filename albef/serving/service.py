"""``albef serve``: Triton behind a proxy, supervised.

Processes that die are started again, and models that no longer answer are loaded again (`albef.serving.watchdog`). On
SIGINT or SIGTERM the proxy refuses new requests, and the service ends when those in progress are answered.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from albef.config import GatewayConfig
from albef.serving import access, health
from albef.serving.access import AccessError, Tls
from albef.serving.client import Client
from albef.serving.gateway import Gateway
from albef.serving.processes import Child, Running
from albef.serving.requests import ServingError
from albef.serving.server import LOOPBACK, ServerError, TritonServer, describe, in_use
from albef.serving.watchdog import Watchdog
from albef.tasks import registry

_logger = logging.getLogger(__name__)
GAVE_UP = 3
"""Exit status if the server kept dying."""
_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each restart; after the last one the service gives up."""
_CALM = 60.0
"""Seconds without a crash after which the pauses start again."""


@dataclass(frozen=True)
class Access:
    """Addresses of the service, and who may use it.

    Args:
        address: Address of the network interface.
        grpc_port, http_port: Ports; 0 selects a free one, and without an HTTP port there is no HTTP side.
        tls: Certificate and key of the server, and the certificates that clients must descend from.
        tokens: Tokens of clients; empty if none is required.
        admin_key: File of the administrator's key; by default a new key is written to `access.key_file`.
        gateway: Put nginx in front with these limits; the other processes then listen on private sockets alone.
        hosts: Further names of this server in HTTP requests; others may be those of hostile web pages.
        origins: Origins of web pages that may send HTTP requests.

    Raises:
        AccessError: If the address is open to a network without protection.
    """

    address: str = LOOPBACK
    grpc_port: int = 0
    http_port: int | None = None
    tls: Tls = field(default_factory=Tls)
    tokens: Sequence[str] = ()
    admin_key: Path | None = None
    gateway: GatewayConfig | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()

    def __post_init__(self) -> None:
        access.check_address(self.address, self.tls, self.tokens)
        self.tls.read()
        if self.gateway and (self.tls.cert is None or access.is_open(self.tls, self.tokens)):
            raise AccessError("the gateway needs --tls-cert and --tls-key, and --tokens or --tls-client-ca")
        if self.gateway and not (self.grpc_port and self.http_port):
            raise AccessError("the gateway needs --grpc-port and --http-port")

    def options(self) -> list[str]:
        """Return the options of a process for its TLS files."""
        files = {"ca": self.tls.ca, "cert": self.tls.cert, "key": self.tls.key}
        return [part for name, path in files.items() if path for part in (f"--{name}", str(path))]


@dataclass(frozen=True)
class Limits:
    """Bounds of the work that the service accepts.

    Args:
        max_requests: Most requests of an endpoint in progress.
        max_bytes: Most bytes of all requests in progress.
        timeout: Most seconds for an answer.
        watchdog: Seconds between rounds of questions to all models.
        grace: Seconds for the requests in progress when stopping.
    """

    max_requests: int = 64
    max_bytes: int = 512 * 2**20
    timeout: float = 60.0
    watchdog: float = 5.0
    grace: float = 20.0


class Service(Running):
    """Triton, the processes in front of it, and a thread that watches over its models.

    Raises:
        ServerError: On starting, if a part does not start.
    """

    def __init__(self, server: TritonServer, access: Access | None = None, limits: Limits | None = None) -> None:
        self.server, self.access, self.limits = server, access or Access(), limits or Limits()
        self.grpc_port, self.http_port = self.access.grpc_port, self.access.http_port
        self.stopping = threading.Event()
        self._up = threading.Event()
        self._parts: dict[str, Child] = {}
        self._endpoints: list[str] = []
        self._crashes: dict[str, list[float]] = defaultdict(list)  # when each part died
        self._health: dict[str, bool] = {}
        self._details: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._key = ""

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC service."""
        return f"{self.access.address}:{self.grpc_port}"

    @property
    def http_url(self) -> str | None:
        """Address of the HTTP side, None without one."""
        scheme = "https" if self.access.tls.cert else "http"
        return None if self.http_port is None else f"{scheme}://{self.access.address}:{self.http_port}"

    def start(self) -> None:
        """Start all parts and wait until they answer."""
        for port in filter(None, (self.grpc_port, self.http_port)):
            if in_use(self.access.address, port):
                text = f"{self.access.address}:{port}: the port is in use; stop its process or choose another port"
                raise ServerError(text)
        self._key = access.read_key(self.access.admin_key) if self.access.admin_key else access.new_key()
        self.stopping.clear()
        if not self.server.alive():
            self.server.start(self.stopping.is_set)
        with Client(self.server.grpc_url) as client:
            loaded = client.models()
            self._endpoints = [name for name in registry.endpoints() if loaded.get(name)]
            self._details = health.details(client, self.server.repository, self._endpoints)
        self._start_proxy()
        if self.http_port is not None:
            self._start_http()
        if self.access.gateway:
            self._start_gateway(self.access.gateway)
        self.report(dict.fromkeys(self._endpoints, True))
        self._up.set()

    def _start_proxy(self) -> None:
        options = ["--triton", self.server.grpc_url, "--private", f"unix:{self.server.folder}/proxy"]
        options += ["--endpoints", *self._endpoints]
        if self.access.gateway is None:
            options += ["--address", self.grpc_url, *self.access.options()]
        options += ["--max-requests", str(self.limits.max_requests), "--max-bytes", str(self.limits.max_bytes)]
        secrets = {"tokens": list(self.access.tokens), "admin": [self._key]}
        port = self._start("proxy", [*options, "--timeout", str(self.limits.timeout)], secrets)
        self.grpc_port = port or self.grpc_port
        if not self.access.admin_key:
            access.write_key(access.key_file(self.grpc_port), self._key)

    def _start_http(self) -> None:
        options = ["--grpc", f"unix:{self.server.folder}/proxy", "--endpoints", *self._endpoints]
        if self.access.gateway is None:
            options += ["--address", self.access.address, "--port", str(self.http_port), *self.access.options()]
        else:
            options += ["--socket", f"{self.server.folder}/http"]
        options += ["--hosts", self.access.address, "localhost", LOOPBACK, *self.access.hosts]
        options += ["--origins", *self.access.origins, "--timeout", str(self.limits.timeout)]
        port = self._start("http_app", options)
        self.http_port = port or self.http_port

    def _start_gateway(self, config: GatewayConfig) -> None:
        folder, own = self.server.folder, self.access
        assert self.http_port is not None
        gateway = Gateway(
            address=own.address,
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            grpc=f"unix:{folder}/proxy",
            http=f"unix:{folder}/http",
            tls=own.tls,
            tokens=own.tokens,
            timeout=self.limits.timeout,
        )
        child = gateway.start(config, folder / "gateway")
        with self._lock:
            self._parts["nginx"] = child

    def _start(self, name: str, options: Sequence[str], secrets: Mapping[str, object] | None = None) -> int:
        """Start a process of this package, and return the port that it tells."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", f"albef.serving.{name}", *options]
        child = Child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        if secrets is not None:
            _write(child, secrets)
        assert child.process.stdout is not None
        line = child.process.stdout.readline()
        if not line:
            status = child.process.wait()
            child.stop(0)
            raise ServerError(f"{name}: did not start and ended with {describe(status)}; its error is above")
        with self._lock:
            self._parts[name] = child
        return int(line)

    def report(self, answering: dict[str, bool]) -> None:
        """Tell the other processes which endpoints answer."""
        endpoints = {name: {"ready": ready, **self._details.get(name, {})} for name, ready in answering.items()}
        state = {"ready": bool(answering) and all(answering.values()), "endpoints": endpoints}
        with self._lock:
            self._health = answering
            for name, child in self._parts.items():
                if child.process.stdin is not None:
                    _write(child, {"health": answering} if name == "proxy" else state)

    def watch(self) -> None:
        """Keep all parts running until `stopping` is set.

        Raises:
            ServerError: If a part dies again and again.
        """
        questions = threading.Thread(target=self._ask, daemon=True)
        questions.start()
        while not self.stopping.wait(0.1):
            if not self.server.alive():
                self._up.clear()
                self.report(dict.fromkeys(self._health, False))
                self._count_crash("the Triton server", self.server.status())
                self._restart_server()
            starts: dict[str, Callable[[], None]] = {"proxy": self._start_proxy, "http_app": self._start_http}
            if self.access.gateway:
                starts["nginx"] = partial(self._start_gateway, self.access.gateway)
            for name, start in starts.items():
                if name in self._parts and self._parts[name].poll() is not None:
                    self._count_crash(name, self._parts[name].poll())
                    self._parts[name].stop(0)
                    with _next_crash():
                        start()
                        self.report(self._health)

    def _restart_server(self) -> None:
        with _next_crash():
            self.server.restart(self.stopping.is_set)
            self._up.set()
            self.report(dict.fromkeys(self._health, True))

    def _count_crash(self, part: str, status: int | None) -> None:
        now, text = time.monotonic(), f"{part} ended with {describe(status)}"
        crashes = self._crashes[part] = [*(when for when in self._crashes[part] if now - when < _CALM), now]
        if len(crashes) > len(_PAUSES):
            raise ServerError(f"{text}, its {len(crashes)}th crash in a minute\n{self.server.log_excerpt()}")
        print(f"{text}; it is started again", file=sys.stderr, flush=True)
        self.stopping.wait(_PAUSES[len(crashes) - 1])

    def _ask(self) -> None:
        watchdog = Watchdog(self.report)
        while not self.stopping.wait(self.limits.watchdog):
            self._up.wait(self.limits.watchdog)
            pid = self.server.pid
            try:
                if self._up.is_set():
                    # A new client: the channel of an old one may still fail for a moment after a restart.
                    with Client(self.server.grpc_url, timeout=20, retries=0) as client:
                        watchdog.round(client)
                        with contextlib.suppress(ServingError):  # a model may have been unloaded meanwhile
                            self._details = health.details(client, self.server.repository, self._endpoints)
            except ServingError as error:
                # Not one that has been started meanwhile.
                if self._up.is_set() and self.server.pid == pid is not None and not self.stopping.is_set():
                    _logger.warning("the Triton server is started again: %s", error)
                    self.server.kill()

    def stop(self) -> None:
        """Refuse new requests, wait for those in progress, and stop all parts."""
        self.stopping.set()
        with self._lock:
            parts, self._parts = self._parts, {}
        if proxy := parts.get("proxy"):
            _write(proxy, {"stop": self.limits.grace})
            with contextlib.suppress(subprocess.TimeoutExpired):
                proxy.process.wait(self.limits.grace + 2)
            if not self.access.admin_key:
                access.key_file(self.grpc_port).unlink(missing_ok=True)
        for part in parts.values():
            part.stop(1)
        self.server.stop()


def _write(child: Child, command: Mapping[str, object]) -> None:
    with contextlib.suppress(OSError, ValueError):  # a process that has died is started again, its pipe may be closed
        child.input.write(json.dumps(command).encode() + b"\n")
        child.input.flush()


@contextlib.contextmanager
def _next_crash() -> Iterator[None]:
    """Report a restart that fails; the part is not alive, which counts as its next crash."""
    try:
        yield
    except ServerError as error:
        _logger.warning("%s", error)


def serve(service: Service) -> None:
    """Run a service until SIGINT or SIGTERM; main thread only.

    Raises:
        ServerError: If it does not start.
        SystemExit: With `GAVE_UP` if it keeps dying.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.stopping.set())
    try:
        try:
            service.start()
        except ServerError:
            if service.stopping.is_set():
                return
            raise
        print(
            f"serving {service.server.repository}: gRPC {service.grpc_url}, "
            + (f"HTTP {service.http_url}, " if service.http_url else "")
            + f"metrics http://{service.server.metrics_url}/metrics; Ctrl-C stops",
            flush=True,
        )
        try:
            service.watch()
        except ServerError as error:
            if not service.stopping.is_set():
                print(f"albef serve: {error}", file=sys.stderr)
                raise SystemExit(GAVE_UP) from error
    finally:
        service.stop()
