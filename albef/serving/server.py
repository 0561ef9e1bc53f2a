"""Local Triton server that only processes of this user reach.

It starts, answers probes, and stops without leftovers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from albef.serving.client import Client
from albef.serving.metrics import LOG_REQUESTS
from albef.serving.probes import default_probes
from albef.serving.processes import Child, Running
from albef.serving.requests import ServingError
from albef.serving.runtime import Runtime, ensure
from albef.serving.sample import DEFAULT_FRACTION, FOLDER, FRACTION, check_fraction
from albef.tasks import registry

_logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CACHE_BYTES = 256 * 2**20
"""Size of the response cache: 340 encoded images of a ViT-B/16 at 256 pixels, 0.8 MB each."""


class ServerError(ServingError):
    """The server did not start, or has stopped."""


def free_ports(count: int) -> list[int]:
    """Return free ports of the loopback address."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind((LOOPBACK, 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def is_remote(repository: Path | str) -> bool:
    """Return whether a repository is in object storage, which only Triton reads."""
    return isinstance(repository, str) and repository.startswith("s3://")


def in_use(address: str, port: int) -> bool:
    """Return whether a port cannot be bound."""
    try:
        with socket.create_server((address, port)):
            return False
    except OSError:
        return True


def describe(status: int | None) -> str:
    """Return an exit status in words, with the name of the signal that ended a process."""
    if status is not None and status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"status {status}"


class TritonServer(Running):
    """Triton server that runs for the duration of a ``with`` block.

    It listens on a socket file in a private folder and has no HTTP service: any client of Triton may load models, and
    so run code. `albef.serving.service` puts a proxy in front of it.

    Args:
        repository: Model repository written by `albef.export.repository`: a folder, or its copy in S3-compatible
            storage, ``s3://http://HOST:PORT/BUCKET/FOLDER`` (or ``https``), with credentials in ``AWS_*`` variables.
        runtime: Triton runtime; by default that of this checkout, built if missing or out of date.
        metrics_port: Port of the metrics; 0 selects a free one.
        metrics_address: Address of the metrics.
        log: Log file of the server; by default a temporary one.
        cache_bytes: Size of the response cache, which stores image encodings; 0 disables it.
        log_requests: Log every request instead of only refused and failed ones.
        trace: URL of a collector that receives spans of requests and their graph requests by OTLP.
        trace_every: Trace each request of this number, and those whose sender traces them; 0: only the latter.
        sample: Folder for request statistics; see `albef.serving.sample`.
        sample_fraction: Fraction of requests to sample.
        start_timeout: Seconds until the server must answer its first request.
        stop_timeout: Seconds for pending requests when stopping.

    Raises:
        RuntimeSetupError: If there is no runtime and it cannot be built.
        ServerError: On entering, if the server does not start; the message ends with errors from its log.
        ValueError: If ``sample_fraction`` is out of range.
    """

    def __init__(
        self,
        repository: Path | str,
        *,
        runtime: Runtime | None = None,
        metrics_port: int = 0,
        metrics_address: str = LOOPBACK,
        log: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
        log_requests: bool = False,
        trace: str | None = None,
        trace_every: int = 1,
        sample: Path | None = None,
        sample_fraction: float = DEFAULT_FRACTION,
        start_timeout: float = 120.0,
        stop_timeout: float = 20.0,
    ) -> None:
        self.repository = repository if is_remote(repository) else Path(repository).resolve()
        self.runtime = runtime or ensure()
        self.metrics_address, self.metrics_port = metrics_address, metrics_port
        self._any_port = metrics_port == 0
        self.cache_bytes = cache_bytes
        self.log_requests, self.trace, self.trace_every = log_requests, trace, trace_every
        self.sample = sample.resolve() if sample else None
        self.sample_fraction = check_fraction(sample_fraction)
        self.start_timeout, self.stop_timeout = start_timeout, stop_timeout
        self.log, self._own_log = log, log is None
        self._work_dir: Path | None = None
        self._child: Child | None = None
        self._shm_prefix = f"albef_{os.getpid()}_{secrets.token_hex(4)}_"

    @property
    def folder(self) -> Path:
        """Private folder for sockets.

        Raises:
            ServerError: If the server is not running.
        """
        if self._work_dir is None:
            raise ServerError("the Triton server is not running")
        return self._work_dir

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC service, a socket file.

        Raises:
            ServerError: If the server is not running.
        """
        return f"unix:{self.folder}/triton:1"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics, below ``/metrics``."""
        return f"{self.metrics_address}:{self.metrics_port}"

    @property
    def pid(self) -> int | None:
        """Process id and session id of the server; None if not running."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def segments(self) -> list[Path]:
        """Return the shared memory files between server and endpoints."""
        return list(Path("/dev/shm").glob(f"{self._shm_prefix}*"))

    def command(self) -> list[str]:
        """Return the command line of the server."""
        options = {
            "model-repository": str(self.repository),
            "backend-directory": str(self.runtime.backends),
            "allow-http": "false",
            "grpc-address": self.grpc_url.removesuffix(":1"),  # Triton appends the port
            "grpc-port": "1",
            "metrics-address": self.metrics_address,
            "metrics-port": str(self.metrics_port),
            "allow-gpu-metrics": str(self.runtime.gpu_metrics).lower(),
            "exit-timeout-secs": str(max(int(self.stop_timeout) - 5, 1)),
            "model-control-mode": "explicit",
            "load-model": "*",
            "strict-readiness": "false",  # otherwise an unloaded version would count as not ready
            # A unique prefix, so that the segments of this server can be removed with it.
            "backend-config": "python,shm-region-prefix-name=" + self._shm_prefix,
        }
        if self.cache_bytes:
            options["cache-directory"] = str(self.runtime.caches)
            options["cache-config"] = f"local,size={self.cache_bytes}"
        settings = []
        if self.trace:
            collector = (f"url={self.trace}", "resource=service.name=albef")
            settings = ["mode=opentelemetry", *(f"opentelemetry,{each}" for each in collector)]
            settings += [f"rate={self.trace_every}", "level=TIMESTAMPS"]
        arguments = [*(f"--{name}={value}" for name, value in options.items()), "--disable-auto-complete-config"]
        return [str(self.runtime.server), *arguments, *(f"--trace-config={setting}" for setting in settings)]

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the server and wait until it answers.

        Args:
            cancelled: Polled while waiting; True aborts the start.

        Raises:
            ServerError: If the server does not start in time, a port is in use, or there is no model repository.
        """
        if isinstance(self.repository, Path) and not any(self.repository.glob("*/config.pbtxt")):
            raise ServerError(f"{self.repository}: not a model repository, expected <model>/config.pbtxt in it")
        for attempt in range(3):
            if self._any_port:
                (self.metrics_port,) = free_ports(1)
            try:
                self._start(cancelled)
                return
            except ServerError:
                status = self.status()
                self.stop()
                # On a busy machine Triton rarely aborts as it starts, because it cannot lock its shared memory.
                crashed = status is not None and status < 0 and attempt == 0
                # Another process may have taken the free port meanwhile; a requested port is not changed.
                taken = self._any_port and in_use(self.metrics_address, self.metrics_port)
                if attempt == 2 or not (crashed or taken):
                    raise
                if crashed:
                    _logger.warning("the Triton server died of %s as it started; trying again", describe(status))
            except BaseException:
                self.stop()
                raise

    def _start(self, cancelled: Callable[[], bool]) -> None:
        if in_use(self.metrics_address, self.metrics_port):
            raise ServerError(f"{self.metrics_url}: the port is in use; stop its process or choose another port")
        if self._work_dir is None:  # not in TMPDIR: the path of a socket has at most 107 characters
            self._work_dir = Path(tempfile.mkdtemp(prefix="albef-triton-", dir="/tmp"))
        if self._own_log:
            self.log = self._work_dir / "server.log"
        assert self.log is not None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = self.runtime.environment()
        # Without credentials the S3 client would query the EC2 metadata service and wait for its timeout.
        environment.setdefault("AWS_EC2_METADATA_DISABLED", "true")
        if self.log_requests:
            environment[LOG_REQUESTS] = "1"
        if self.sample:
            self.sample.mkdir(parents=True, exist_ok=True)
            environment |= {FOLDER: str(self.sample), FRACTION: str(self.sample_fraction)}
        with self.log.open("ab") as log:
            self._child = Child(
                self.command(),
                leftovers=(self._work_dir, f"/dev/shm/{self._shm_prefix}"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self._work_dir,
            )
        deadline = time.monotonic() + self.start_timeout
        self._until((self._work_dir / "triton:1").exists, deadline, cancelled)
        with Client(self.grpc_url, timeout=max(deadline - time.monotonic(), 1.0), retries=2) as client:
            self._until(client.live, deadline, cancelled)
            models = client.models()
            if failed := sorted(name for name, loaded in models.items() if not loaded):
                raise ServerError(f"{', '.join(failed)}: cannot be loaded\n{self.log_excerpt()}")
            for probe in default_probes(name for name in registry.endpoints() if name in models):
                try:
                    probe.ask(client)
                except ServingError as error:
                    raise ServerError(
                        f"{probe.endpoint}: loaded, but does not answer: {error}\n{self.log_excerpt()}"
                    ) from error

    def _until(self, done: Callable[[], bool], deadline: float, cancelled: Callable[[], bool]) -> None:
        while not done():
            if self._child is None or self._child.poll() is not None:
                status = self._child.poll() if self._child else None
                raise ServerError(f"the Triton server exited with {describe(status)}\n{self.log_excerpt()}")
            if cancelled():
                raise ServerError("the start of the Triton server was canceled")
            if time.monotonic() > deadline:
                raise ServerError(f"the server is not ready after {self.start_timeout:g} s\n{self.log_excerpt()}")
            time.sleep(0.05)

    def log_excerpt(self, limit: int = 12) -> str:
        """Return the last errors of the log.

        Its last lines are added if there are no errors, or if the server crashed, possibly without logging an error.
        """
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log else []
        except OSError:
            return ""
        # Without a GPU the server logs CUDA errors and continues.
        errors = [line for line in lines if line.startswith("E") and "CUDA" not in line and "cuda" not in line]
        status = self._child.poll() if self._child else None
        crashed = status is not None and status < 0
        excerpt, last = errors[-limit:], lines[-limit:]
        if crashed or not errors:
            excerpt += [line for line in last if line not in excerpt]
        return "\n".join(excerpt)

    def alive(self) -> bool:
        """Return whether the server process is running."""
        return self.pid is not None

    def status(self) -> int | None:
        """Return the exit status of a server that has ended by itself."""
        return self._child.poll() if self._child else None

    def restart(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start a server that has died again, at the same address.

        Raises:
            ServerError: As `start` does.
        """
        self._stop_process()
        self._start(cancelled)

    def kill(self) -> None:
        """Kill the server and its stubs."""
        if self._child is not None:
            self._child.kill()

    def stop(self) -> int | None:
        """Stop the server after pending requests and clean up.

        Returns:
            Exit status (0 if clean), or None if the server was not running.
        """
        status = self._stop_process()
        if self._work_dir is not None:
            shutil.rmtree(self._work_dir, ignore_errors=True)
            if self._own_log:
                self.log = None
            self._work_dir = None
        return status

    def _stop_process(self) -> int | None:
        child, self._child = self._child, None
        status = None
        if child is not None:
            status = child.stop(self.stop_timeout)
            if status is None:
                _logger.warning("the Triton server did not stop within %g s and was killed", self.stop_timeout)
                status = -signal.SIGKILL
        for segment in self.segments():
            segment.unlink(missing_ok=True)
        if self._work_dir is not None:
            (self._work_dir / "triton:1").unlink(missing_ok=True)
        return status
