"""The committed deployments, for real: a Prefect server, a work pool, a worker, and a run by name."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.pipeline.tree import Tree

pytestmark = pytest.mark.pipeline

PREFECT = str(Path(sys.executable).parent / "prefect")


@contextmanager
def running(command: list[str], cwd: Path, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all it starts, for the time of the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Api:
    """A Prefect server of this test's own.

    Args:
        url: Address of its API.
        environment: Of commands that talk to it.
    """

    def __init__(self, url: str, environment: dict[str, str]) -> None:
        self.url, self.environment = url, environment

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Answer of the API; with a body, a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def api(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server with the pools and deployments that ``infra/deploy.sh`` makes."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {**tree.environment, "PREFECT_HOME": str(home), "PREFECT_API_URL": url, "NO_COLOR": "1"}
    # Variables of a harness in this very process would lead the commands to it.
    environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, home, environment, home / "server.log") as server:
        found = Api(url, environment)
        deadline = time.monotonic() + 120
        while True:
            try:
                found.ask("/health")
                break
            except OSError:
                assert server.poll() is None, (home / "server.log").read_text()
                assert time.monotonic() < deadline, (home / "server.log").read_text()
                time.sleep(0.3)
        done = subprocess.run(["infra/deploy.sh"], cwd=tree.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        yield found


def test_the_deployments_are_named_as_documented(api: Api) -> None:
    flows = {flow["id"]: flow["name"] for flow in api.ask("/flows/filter", {})}
    deployments = {f"{flows[d['flow_id']]}/{d['name']}": d for d in api.ask("/deployments/filter", {})}
    assert set(deployments) == {"pretrain/local", "pretrain/gpu", "pipeline/local"}
    for name, deployment in deployments.items():
        assert deployment["work_pool_name"] == name.partition("/")[2]
        assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployments["pretrain/gpu"]["tags"] == ["gpu"]


def test_a_run_by_name_trains(api: Api, tree: Tree, tmp_path: Path) -> None:
    old = tree.set_param("pretrain.seed", 3)
    try:
        worker = [PREFECT, "worker", "start", "--pool", "local"]
        with running(worker, tree.root, api.environment, tmp_path / "worker.log"):
            done = subprocess.run(
                [PREFECT, "deployment", "run", "pretrain/local", "--watch", "--watch-timeout", "240"],
                cwd=tmp_path,
                env=api.environment,
                capture_output=True,
                text=True,
            )
        log = (tmp_path / "worker.log").read_text()
        assert done.returncode == 0, done.stdout + done.stderr + log
        (run,) = api.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
        assert run["state_type"] == "COMPLETED", log
        lock = YAML(typ="safe").load(tree.root / "dvc.lock")
        assert lock["stages"]["pretrain"]["params"]["params.yaml"]["pretrain"]["seed"] == 3
        names = {task["name"] for task in api.ask("/task_runs/filter", {})}
        assert names == {"data.dvc", "prepare", "validate", "tokenizer", "pretrain"}
        messages = [entry["message"] for entry in api.ask("/logs/filter", {"limit": 200})]
        assert any(message.startswith("Running stage 'pretrain'") for message in messages)
        artifacts = {artifact["key"]: artifact for artifact in api.ask("/artifacts/filter", {})}
        assert "itc_loss" in str(artifacts["metrics"]["data"])
        assert "artifacts/validated/docs/index.html" in str(artifacts["data-docs"]["data"])
    finally:
        tree.set_param("pretrain.seed", old)
        tree.dvc("repro", "pretrain")
