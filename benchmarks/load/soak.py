"""Long-running load that records failed requests and memory use."""

from __future__ import annotations

import random
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil
import trustme

from albef.config import GatewayConfig
from albef.serving.access import Tls
from albef.serving.client import Client
from albef.serving.server import TritonServer, free_ports
from albef.serving.service import Access, Service
from benchmarks.load.loop import closed_loop, table
from benchmarks.load.questions import KINDS, Questions

WARM_UP = 0.2
"""Fraction of the run that is excluded from memory statistics, while memory pools and the cache fill."""


def processes(others: Collection[psutil.Process] = ()) -> list[psutil.Process]:
    """Return all processes that this one has started, and theirs, without some others."""
    return [process for process in psutil.Process().children(recursive=True) if process not in others]


def memory(pids: Sequence[int]) -> dict[str, float]:
    """Return resident and proportional MiB of some processes; Pss counts shared pages once."""
    totals = {"Rss": 0.0, "Pss": 0.0}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(pid).memory_full_info()
            totals["Rss"] += found.rss / 2**20
            totals["Pss"] += found.pss / 2**20
    return totals


def slope(minutes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return least-squares slope and standard error; NaN below three points."""
    if len(minutes) < 3:
        return float("nan"), float("nan")
    (gradient, _), covariance = np.polyfit(minutes, values, 1, cov=True)
    return float(gradient), float(np.sqrt(covariance[0, 0]))


_TARGETS = {
    "Triton": "tritonserver",
    "endpoint": "triton_python_backend_stub",
    "proxy": "albef.serving.proxy",
    "HTTP": "albef.serving.http_app",
    "nginx": "nginx",
}
"""Programs and modules of the service's processes."""
_LIMITS = GatewayConfig(requests_per_second=100_000, burst=100_000, connections=1000)
"""Of a gateway, which takes all callers for one client."""


@contextmanager
def _serving(repository: Path, cache_bytes: int, gateway: bool) -> Iterator[tuple[Service, Client]]:
    """Run a supervised service; yield it and a client."""
    with ExitStack() as stack:
        allowed, options = Access(http_port=0), {}
        if gateway:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            authority = trustme.CA()
            certificate = authority.issue_cert("127.0.0.1")
            tls = Tls(None, folder / "cert.pem", folder / "key.pem")
            authority.cert_pem.write_to_path(str(folder / "ca.pem"))
            certificate.cert_chain_pems[0].write_to_path(str(tls.cert))
            certificate.private_key_pem.write_to_path(str(tls.key))
            token = secrets.token_hex(16)
            ports = dict(zip(("grpc_port", "http_port"), free_ports(2), strict=True))
            allowed = Access(**ports, tls=tls, tokens=[token], gateway=_LIMITS)
            options = {"tls": Tls(folder / "ca.pem"), "token": token}
        service = stack.enter_context(Service(TritonServer(repository, cache_bytes=cache_bytes), allowed))
        watch = Thread(target=service.watch)
        watch.start()
        stack.callback(watch.join)
        stack.callback(service.stopping.set)
        yield service, stack.enter_context(Client(service.grpc_url, timeout=120, retries=100, **options))


def _kill_some(
    kills: int, seconds: float, others: Collection[psutil.Process], done: Event, killed: Counter[str]
) -> None:
    """Kill each kind of process ``kills`` times, in turn, at even intervals."""
    for name in list(_TARGETS) * kills:
        if done.wait(seconds / (kills * len(_TARGETS))):
            return
        found = [process for process in processes(others) if _program(process) == _TARGETS[name]]
        if found:
            random.choice(found).kill()
            killed[name] += 1


def _program(process: psutil.Process) -> str:
    """Return the program of a process, or the module that Python runs."""
    with suppress(psutil.Error):
        command = process.cmdline()
        if command[1:2] == ["-m"]:
            return command[2]
        return Path(command[0].split(":")[0]).name if command else ""  # nginx: worker process
    return ""


def run(
    repository: Path,
    kinds: Sequence[str],
    concurrency: int,
    seconds: float,
    every: float,
    images: int,
    size: tuple[int, int],
    cache_bytes: int,
    gateway: bool = False,
    kills: int = 0,
) -> dict[str, Any]:
    """Send requests of all kinds in random order, and sample the service's memory.

    Args:
        every: Seconds between memory samples.
        gateway: Put nginx in front, with TLS and a token.
        kills: Number of times that each kind of process is killed meanwhile.
    """
    questions = [Questions(KINDS[name], images, size) for name in kinds]
    count = len(questions) * images
    order = random.Random(0).sample(range(count), count)
    samples: list[dict[str, float]] = []
    killed: Counter[str] = Counter()
    others = processes()
    with _serving(repository, cache_bytes, gateway) as (_, client):
        started, done = time.monotonic(), Event()
        before = processes(others)

        def watch() -> None:
            while True:
                pids = [process.pid for process in processes(others)]
                samples.append({"s": time.monotonic() - started, "processes": len(pids), **memory(pids)})
                if done.wait(every):
                    return

        def ask(number: int) -> None:
            index = order[number % count]
            client.ask(questions[index % len(questions)][index // len(questions)])

        threads = [Thread(target=watch), Thread(target=_kill_some, args=(kills, seconds, others, done, killed))]
        for thread in threads:
            thread.start()
        load = closed_loop(ask, concurrency, seconds)
        done.set()
        for thread in threads:
            thread.join()
        lost = len(before) - len(processes(others))
    # After the deadline the server only finishes its last requests.
    kept = [sample for sample in samples if WARM_UP * seconds <= sample["s"] <= seconds]
    result: dict[str, Any] = {
        "kinds": list(kinds),
        "concurrency": concurrency,
        "seconds": load.seconds,
        "requests": len(load.latencies),
        "failures": dict(load.failures),
        "p50_ms": load.percentile(50),
        "p99_ms": load.percentile(99),
        "per_s": load.rate,
        "lost_processes": lost,
        "gateway": gateway,
        "killed": dict(killed),
        "samples": samples,
    }
    for key in ("Rss", "Pss"):
        values = [sample[key] for sample in kept]
        gradient, error = slope([sample["s"] / 60 for sample in kept], values)
        middle = values[len(values) // 2] if values else float("nan")
        ends = (values[0], values[-1]) if values else (float("nan"),) * 2
        result[key] = {
            "warm_mib": ends[0],
            "middle_mib": middle,
            "end_mib": ends[1],
            "mib_per_minute": gradient,
            "standard_error": error,
        }
    return result


def report(result: dict[str, Any]) -> str:
    """Format the result as text."""
    failed = ", ".join(f"{count} x {error}" for error, count in result["failures"].items()) or "none"
    killed = ", ".join(f"{count} x {name}" for name, count in result["killed"].items()) or "none"
    rows = [
        [
            {"Rss": "resident", "Pss": "proportional"}[key],
            *(f"{result[key][when]:.1f}" for when in ("warm_mib", "middle_mib", "end_mib")),
            f"{result[key]['mib_per_minute']:+.2f} ± {result[key]['standard_error']:.2f}",
        ]
        for key in ("Rss", "Pss")
    ]
    return (
        f"{result['requests']} requests in {result['seconds'] / 60:.1f} minutes, {result['concurrency']} at a time "
        f"({', '.join(result['kinds'])}): {result['per_s']:.1f} per second, "
        f"p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms\n"
        f"failed: {failed}; killed: {killed}; processes lost: {result['lost_processes']}\n\n"
        + table(("MiB of all processes of the service", "warm", "middle", "end", "per minute ± standard error"), rows)
    )
