"""Local Triton server on loopback; starts, answers probes, and stops without leftovers."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

from albef.serving.client import Client
from albef.serving.metrics import LOG_REQUESTS
from albef.serving.probes import default_probes
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


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


class TritonServer:
    """Triton server that runs for the duration of a ``with`` block.

    Args:
        repository: Model repository written by `albef.export.repository`: a folder, or its copy in S3-compatible
            storage, ``s3://http://HOST:PORT/BUCKET/FOLDER`` (or ``https``), with credentials in ``AWS_*`` variables.
        runtime: Triton runtime; by default that of this checkout, built if missing or out of date.
        http_port, grpc_port, metrics_port: Ports; 0 selects a free one.
        log: Log file of the server; by default a temporary one.
        explicit: Let clients load and unload models, as a release does. All models are loaded at the start.
        cache_bytes: Size of the response cache, which stores image encodings; 0 disables it.
        log_requests: Log every request instead of only refused and failed ones.
        trace: File for timestamps of every request and its graph requests; see `albef.serving.trace`.
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
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        log: Path | None = None,
        explicit: bool = False,
        cache_bytes: int = CACHE_BYTES,
        log_requests: bool = False,
        trace: Path | None = None,
        sample: Path | None = None,
        sample_fraction: float = DEFAULT_FRACTION,
        start_timeout: float = 120.0,
        stop_timeout: float = 20.0,
    ) -> None:
        self.repository = repository if is_remote(repository) else Path(repository).resolve()
        self.runtime = runtime or ensure()
        self.ports = (http_port, grpc_port, metrics_port)
        self.explicit, self.cache_bytes = explicit, cache_bytes
        self.log_requests, self.trace = log_requests, trace.resolve() if trace else None
        self.sample = sample.resolve() if sample else None
        self.sample_fraction = check_fraction(sample_fraction)
        self.start_timeout, self.stop_timeout = start_timeout, stop_timeout
        self.log = log
        self._requested_ports = self.ports
        self._work_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shm_prefix = f"albef_{os.getpid()}_{secrets.token_hex(4)}_"

    @property
    def http_url(self) -> str:
        """Address of the HTTP service."""
        return f"{LOOPBACK}:{self.ports[0]}"

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC service."""
        return f"{LOOPBACK}:{self.ports[1]}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics, below ``/metrics``."""
        return f"{LOOPBACK}:{self.ports[2]}"

    @property
    def pid(self) -> int | None:
        """Process id and session id of the server; None if not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def segments(self) -> list[Path]:
        """Return the shared memory files between server and endpoints."""
        return list(Path("/dev/shm").glob(f"{self._shm_prefix}*"))

    def command(self) -> list[str]:
        """Return the command line of the server."""
        http, grpc, metrics = map(str, self.ports)
        options = {
            "model-repository": str(self.repository),
            "backend-directory": str(self.runtime.backends),
            "http-address": LOOPBACK,
            "http-port": http,
            "grpc-address": LOOPBACK,
            "grpc-port": grpc,
            "metrics-address": LOOPBACK,
            "metrics-port": metrics,
            "allow-gpu-metrics": "false",
            "exit-timeout-secs": str(max(int(self.stop_timeout) - 5, 1)),
        }
        # A unique prefix, so that the segments of this server can be removed with it.
        shared_memory = ["--backend-config=python,shm-region-prefix-name=" + self._shm_prefix]
        # Strict readiness would count an unloaded version as not ready.
        control = ["--model-control-mode=explicit", "--load-model=*", "--strict-readiness=false"]
        control = control if self.explicit else []
        cache = [f"--cache-directory={self.runtime.caches}", f"--cache-config=local,size={self.cache_bytes}"]
        cache = cache if self.cache_bytes else []
        settings = [f"triton,file={self.trace}", "rate=1", "level=TIMESTAMPS"] if self.trace else []
        trace = [f"--trace-config={setting}" for setting in settings]
        arguments = [*(f"--{name}={value}" for name, value in options.items()), "--disable-auto-complete-config"]
        return [str(self.runtime.server), *arguments, *shared_memory, *control, *cache, *trace]

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
            free = iter(free_ports(3))
            http, grpc, metrics = (port or next(free) for port in self._requested_ports)
            self.ports = (http, grpc, metrics)
            try:
                self._start(cancelled)
                return
            except ServerError:
                self.stop()
                # Another process may have taken a free port meanwhile; requested ports are not changed.
                lost_race = any(
                    _in_use(port) for port, fixed in zip(self.ports, self._requested_ports, strict=True) if not fixed
                )
                if attempt == 2 or not lost_race:
                    raise
            except BaseException:
                self.stop()
                raise

    def _start(self, cancelled: Callable[[], bool]) -> None:
        busy = [port for port in self.ports if _in_use(port)]
        if busy:
            raise ServerError(f"{LOOPBACK}:{busy[0]}: the port is in use; stop its process or choose another port")
        if self._work_dir is None:
            self._work_dir = Path(tempfile.mkdtemp(prefix="albef-triton-"))
        self.log = self.log or self._work_dir / "server.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = self.runtime.environment()
        # Without credentials the S3 client would query the EC2 metadata service and wait for its timeout.
        environment.setdefault("AWS_EC2_METADATA_DISABLED", "true")
        if self.log_requests:
            environment[LOG_REQUESTS] = "1"
        if self.sample:
            self.sample.mkdir(parents=True, exist_ok=True)
            environment |= {FOLDER: str(self.sample), FRACTION: str(self.sample_fraction)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self._work_dir,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.start_timeout
        self._until(self._loaded, deadline, cancelled)
        with Client(self.grpc_url, timeout=max(deadline - time.monotonic(), 1.0), retries=2) as client:
            models = client.models()
            for probe in default_probes(name for name in registry.endpoints() if name in models):
                try:
                    probe.ask(client)
                except ServingError as error:
                    raise ServerError(
                        f"{probe.endpoint}: loaded, but does not answer: {error}\n{self.log_excerpt()}"
                    ) from error

    def _until(self, done: Callable[[], bool], deadline: float, cancelled: Callable[[], bool]) -> None:
        while not done():
            if self._process is None or self._process.poll() is not None:
                status = self._process.returncode if self._process else None
                raise ServerError(f"the Triton server exited with status {status}\n{self.log_excerpt()}")
            if cancelled():
                raise ServerError("the start of the Triton server was canceled")
            if time.monotonic() > deadline:
                raise ServerError(f"the server is not ready after {self.start_timeout:g} s\n{self.log_excerpt()}")
            time.sleep(0.05)

    def _loaded(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.ports[0], timeout=2)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

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
        status = self._process.poll() if self._process else None
        crashed = status is not None and status < 0
        excerpt, last = errors[-limit:], lines[-limit:]
        if crashed or not errors:
            excerpt += [line for line in last if line not in excerpt]
        return "\n".join(excerpt)

    def alive(self) -> bool:
        """Return whether the server process is running."""
        return self.pid is not None

    def stop(self) -> int | None:
        """Stop the server after pending requests and clean up.

        Returns:
            Exit status (0 if clean), or None if the server was not running.
        """
        process, self._process = self._process, None
        status = None
        if process is not None:
            if process.poll() is None:
                process.terminate()
            try:
                status = process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                _logger.warning("the Triton server did not stop within %g s and was killed", self.stop_timeout)
            # A stub ignores SIGTERM after its server has crashed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if status is None:
                status = process.wait()
        for segment in self.segments():
            segment.unlink(missing_ok=True)
        if self._work_dir is not None:
            shutil.rmtree(self._work_dir, ignore_errors=True)
            if self.log and self.log.parent == self._work_dir:
                self.log = None
            self._work_dir = None
        return status

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def _signals(event: threading.Event) -> Iterator[None]:
    """Set ``event`` on SIGINT and SIGTERM within the block."""

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def serve(server: TritonServer) -> None:
    """Run a server until SIGINT or SIGTERM; main thread only.

    Raises:
        ServerError: If the server does not start or stops unexpectedly.
    """
    stopping = threading.Event()
    with _signals(stopping):
        try:
            try:
                server.start(stopping.is_set)
            except ServerError:
                if stopping.is_set():
                    return
                raise
            print(
                f"serving {server.repository}: gRPC {server.grpc_url}, HTTP {server.http_url}, "
                f"metrics http://{server.metrics_url}/metrics; Ctrl-C stops",
                flush=True,
            )
            while not stopping.wait(0.5):
                if not server.alive():
                    raise ServerError(f"the Triton server stopped unexpectedly\n{server.log_excerpt()}")
        finally:
            status = server.stop()
            if status:
                print(f"the Triton server exited with status {status}", file=sys.stderr)
