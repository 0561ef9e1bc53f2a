"""A local Triton server on loopback: started, probed with a real question, stopped without leftovers."""

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

from albef.serving import protocol
from albef.serving.client import Client
from albef.serving.metrics import LOG_REQUESTS
from albef.serving.probes import standard
from albef.serving.requests import ServingError
from albef.serving.runtime import Runtime, ensure
from albef.serving.sample import DEFAULT_SHARE, FOLDER, SHARE, share_of

_logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CACHE_BYTES = 256 * 2**20
"""Of the response cache: 340 encoded images of a ViT-B/16 at 256 pixels, 0.8 MB each."""


class ServerError(ServingError):
    """The server did not start, or is gone."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def remote(repository: Path | str) -> bool:
    """Whether a repository lies in object storage, where nothing but Triton looks."""
    return isinstance(repository, str) and repository.startswith("s3://")


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


class TritonServer:
    """A server for a model repository; starts and stops with the ``with`` block.

    Args:
        repository: Model repository, as `albef.export.repository` writes it: a folder, or its copy in S3-compatible
            storage, ``s3://http://HOST:PORT/BUCKET/FOLDER`` (or ``https``), with credentials in ``AWS_*`` variables.
        runtime: By default the one of this checkout, built when missing or out of date.
        http_port: 0 takes a free one, as do the other ports.
        log: File for the server's log; by default one that is removed with the server.
        explicit: Whether models are loaded and unloaded on request, as a release does. All are loaded at the start.
        cache_bytes: Of the response cache, which keeps encodings of images; 0 for none.
        log_requests: Whether the endpoints log every request, not those alone that are refused or fail.
        trace: File for the timestamps of every request and of the graphs behind it; see `albef.serving.trace`.
        sample: Folder for figures of a share ``sample_share`` of the requests; see `albef.serving.sample`.
        auto_complete: Whether a model's configuration may leave things out. Ours do not, and load faster without.
        start_timeout: Seconds until the first answer.
        stop_timeout: Seconds for requests under way when stopping.

    Raises:
        RuntimeSetupError: If there is no runtime and none can be built.
        ServerError: On entering, if the server does not start; the message ends with what its log complains of.
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
        sample_share: float = DEFAULT_SHARE,
        auto_complete: bool = False,
        start_timeout: float = 120.0,
        stop_timeout: float = 20.0,
    ) -> None:
        self.repository = repository if remote(repository) else Path(repository).resolve()
        self.runtime = runtime or ensure()
        self.ports = (http_port, grpc_port, metrics_port)
        self.explicit, self.cache_bytes, self.auto_complete = explicit, cache_bytes, auto_complete
        self.log_requests, self.trace = log_requests, trace.resolve() if trace else None
        self.sample, self.sample_share = sample.resolve() if sample else None, share_of(sample_share)
        self.start_timeout, self.stop_timeout = start_timeout, stop_timeout
        self.log = log
        self._wanted_ports = self.ports
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shared = f"albef_{os.getpid()}_{secrets.token_hex(4)}_"

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
        """Process id of the server, which leads a session of its own; None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def segments(self) -> list[Path]:
        """Shared memory between the server and its endpoints; none is left once it has stopped."""
        return list(Path("/dev/shm").glob(f"{self._shared}*"))

    def command(self) -> list[str]:
        """The server's command line."""
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
        # Segments of this server alone, to be removed with it.
        shared = ["--backend-config=python,shm-region-prefix-name=" + self._shared]
        # A version that was unloaded would count as one that is not ready.
        control = ["--model-control-mode=explicit", "--load-model=*", "--strict-readiness=false"]
        control = control if self.explicit else []
        store = [f"--cache-directory={self.runtime.caches}", f"--cache-config=local,size={self.cache_bytes}"]
        cache = store if self.cache_bytes else []
        kept = [f"triton,file={self.trace}", "rate=1", "level=TIMESTAMPS"] if self.trace else []
        traced = [f"--trace-config={option}" for option in kept]
        given = [f"--{name}={value}" for name, value in options.items()]
        complete = [] if self.auto_complete else ["--disable-auto-complete-config"]
        return [str(self.runtime.server), *given, *shared, *control, *cache, *traced, *complete]

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the server and wait for its first answer.

        Args:
            cancelled: Asked while waiting; True stops the server again.

        Raises:
            ServerError: If it does not come up in time, a port is taken, or the repository is none.
        """
        if isinstance(self.repository, Path) and not any(self.repository.glob("*/config.pbtxt")):
            raise ServerError(f"{self.repository}: no model repository (no <model>/config.pbtxt)")
        for attempt in range(3):
            free = iter(free_ports(3))
            http, grpc, metrics = (port or next(free) for port in self._wanted_ports)
            self.ports = (http, grpc, metrics)
            try:
                self._start(cancelled)
                return
            except ServerError:
                self.stop()
                # Somebody else may have taken a free port meanwhile; given ports stay as they are.
                raced = any(
                    _taken(port) for port, wanted in zip(self.ports, self._wanted_ports, strict=True) if not wanted
                )
                if attempt == 2 or not raced:
                    raise
            except BaseException:
                self.stop()
                raise

    def _start(self, cancelled: Callable[[], bool]) -> None:
        busy = [port for port in self.ports if _taken(port)]
        if busy:
            raise ServerError(f"{LOOPBACK}:{busy[0]}: the port is taken; stop what listens there or choose another")
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="albef-triton-"))
        self.log = self.log or self._scratch / "server.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = self.runtime.environment()
        # Without credentials its S3 client would ask for those of an EC2 instance, and wait for an answer.
        environment.setdefault("AWS_EC2_METADATA_DISABLED", "true")
        if self.log_requests:
            environment[LOG_REQUESTS] = "1"
        if self.sample:
            self.sample.mkdir(parents=True, exist_ok=True)
            environment |= {FOLDER: str(self.sample), SHARE: str(self.sample_share)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self._scratch,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.start_timeout
        self._until(self._loaded, deadline, cancelled)
        with Client(self.grpc_url, timeout=max(deadline - time.monotonic(), 1.0), retries=2) as client:
            models = client.models()
            for probe in standard(name for name in protocol.ENDPOINTS if name in models):
                try:
                    probe.ask(client)
                except ServingError as error:
                    raise ServerError(
                        f"{probe.endpoint}: loaded, but gives no answer: {error}\n{self.complaints()}"
                    ) from error

    def _until(self, done: Callable[[], bool], deadline: float, cancelled: Callable[[], bool]) -> None:
        while not done():
            if self._process is None or self._process.poll() is not None:
                status = self._process.returncode if self._process else None
                raise ServerError(f"the Triton server exited with status {status}\n{self.complaints()}")
            if cancelled():
                raise ServerError("stopped while starting")
            if time.monotonic() > deadline:
                raise ServerError(f"no Triton server after {self.start_timeout:g} s\n{self.complaints()}")
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

    def complaints(self, limit: int = 12) -> str:
        """The last errors of the log, and its last lines where there are none, or the server crashed: maybe of them."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log else []
        except OSError:
            return ""
        # Without a GPU the server complains of CUDA, and goes on.
        errors = [line for line in lines if line.startswith("E") and "CUDA" not in line and "cuda" not in line]
        status = self._process.poll() if self._process else None
        crashed = status is not None and status < 0
        shown, last = errors[-limit:], lines[-limit:]
        return "\n".join([*shown, *(line for line in last if line not in shown)] if crashed or not errors else shown)

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self.pid is not None

    def stop(self) -> int | None:
        """Stop the server: requests under way are answered, then nothing of it is left.

        Returns:
            Its exit status (0 is clean), None if it was not running.
        """
        process, self._process = self._process, None
        status = None
        if process is not None:
            if process.poll() is None:
                process.terminate()
            try:
                status = process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                _logger.warning("the Triton server did not stop within %g s and is killed", self.stop_timeout)
            # A stub whose server crashed ignores SIGTERM.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if status is None:
                status = process.wait()
        for segment in self.segments():
            segment.unlink(missing_ok=True)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            if self.log and self.log.parent == self._scratch:
                self.log = None
            self._scratch = None
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
    """Within the block SIGINT and SIGTERM set ``event``."""

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def serve(
    repository: Path | str,
    *,
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    log: Path | None = None,
    explicit: bool = False,
    log_requests: bool = False,
    trace: Path | None = None,
    sample: Path | None = None,
    sample_share: float = DEFAULT_SHARE,
) -> None:
    """Serve a repository until SIGINT or SIGTERM; for the main thread. Port 0 takes a free one.

    Raises:
        RuntimeSetupError: If there is no runtime and none can be built.
        ServerError: If the server does not start, or dies.
        ValueError: If there is no such share.
    """
    stopping = threading.Event()
    server = TritonServer(
        repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log=log,
        explicit=explicit,
        log_requests=log_requests,
        trace=trace,
        sample=sample,
        sample_share=sample_share,
    )
    with _signals(stopping):
        try:
            try:
                server.start(stopping.is_set)
            except ServerError:
                if stopping.is_set():
                    return
                raise
            print(
                f"serving {repository}: gRPC {server.grpc_url}, HTTP {server.http_url}, "
                f"metrics http://{server.metrics_url}/metrics; Ctrl-C stops",
                flush=True,
            )
            while not stopping.wait(0.5):
                if not server.alive():
                    raise ServerError(f"the Triton server is gone\n{server.complaints()}")
        finally:
            status = server.stop()
            if status:
                print(f"the Triton server exited with status {status}", file=sys.stderr)
