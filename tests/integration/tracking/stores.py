"""MLflow stores for tests, and queries of their content."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from albef.tracking.tracker import EXPERIMENT


def runs(uri: str) -> dict[str, Any]:
    """Return all runs by name; fails on duplicate names."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), names
    return {run.info.run_name: run for run in found}


def values(uri: str, run: str, key: str) -> list[tuple[int, float]]:
    """Return steps and values of a metric, with duplicates."""
    history = MlflowClient(tracking_uri=uri).get_metric_history(runs(uri)[run].info.run_id, key)
    return sorted((metric.step, metric.value) for metric in history)


def files(uri: str, run: str, folder: str | None = None) -> set[str]:
    """Return the paths of the artifact files of a run."""
    client, found = MlflowClient(tracking_uri=uri), set[str]()
    for each in client.list_artifacts(runs(uri)[run].info.run_id, folder):
        found |= files(uri, run, each.path) if each.is_dir else {each.path}
    return found


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a tracking server with its data in a folder, in its own process group."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder)]
    with (folder / "server.log").open("ab") as log:
        quick = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=quick)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.3)
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a server and its workers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(10)
