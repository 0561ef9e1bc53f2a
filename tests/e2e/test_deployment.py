"""The Prefect deployments with a real server and worker."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.e2e.tree import Tree

FLOWS = ("pipeline", "pretrain", "tune", "finetune", "release", "drift")
PAGES = {
    "data-docs": "artifacts/validated/docs/index.html",
    "report": "artifacts/report/index.html",
    "plots": "artifacts/plots/index.html",
}
EPOCHS = 120
"""Number of epochs of a training that is canceled."""
PREFECT = str(Path(sys.executable).parent / "prefect")


@contextmanager
def running(command: list[str], cwd: Path, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and end it with its children after the block."""
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
    """A Prefect server for this module.

    Args:
        url: Address of its API.
        environment: Environment of its client commands.
    """

    def __init__(self, url: str, environment: dict[str, str]) -> None:
        self.url, self.environment = url, environment

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer to a GET request, or a POST request with a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def api(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server with the pools and deployments of ``infra/deploy.sh``."""
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


@pytest.fixture(scope="module")
def worker(api: Api, tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Log of a running worker in the copy."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with running([PREFECT, "worker", "start", "--pool", "local"], tree.root, api.environment, log):
        yield log


@contextmanager
def changed(tree: Tree, **values: Any) -> Iterator[None]:
    """Change parameters (``__`` for a dot) of the copy, and restore them afterwards."""
    keys = {name.replace("__", "."): value for name, value in values.items()}
    lock = (tree.root / "dvc.lock").read_bytes()
    old = {key: tree.set_param(key, value) for key, value in keys.items()}
    try:
        yield
    finally:
        for key, value in old.items():
            tree.set_param(key, value)
        (tree.root / "dvc.lock").write_bytes(lock)
        tree.dvc("checkout", "--force")


def start(api: Api, deployment: str, *options: str) -> str:
    """Start a run, and return its id."""
    command = [PREFECT, "deployment", "run", deployment, *options]
    done = subprocess.run(command, env=api.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
    assert found, done.stdout
    return found[1]


def until(condition: Callable[[], Any], seconds: float, log: Path) -> Any:
    """Wait until the result of a condition is truthy, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not happen in time\n{log.read_text()}"
        time.sleep(0.2)
    return found


def ended(api: Api, run: str, log: Path, seconds: float = 240) -> dict[str, Any]:
    """Wait for the end of a run, and return its final state."""

    def final() -> Any:
        state = api.ask(f"/flow_runs/{run}")["state"]
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    found: dict[str, Any] = until(final, seconds, log)
    return found


def task_states(api: Api, run: str) -> dict[str, dict[str, Any]]:
    """Return the state of each task of a run."""
    found = api.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return {task["name"]: task["state"] for task in found}


def messages(api: Api, run: str) -> list[str]:
    """Return the log messages of a run."""
    found = api.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    return [entry["message"] for entry in found]


def processes(root: Path) -> list[str]:
    """Return the command lines of processes in a folder, without those of Prefect."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if (path / "cwd").resolve() == root and words and "prefect" not in words:
                found.append(words)
    return found


def test_the_deployments_are_named_as_documented(api: Api) -> None:
    flows = {flow["id"]: flow["name"] for flow in api.ask("/flows/filter", {})}
    deployments = {f"{flows[d['flow_id']]}/{d['name']}": d for d in api.ask("/deployments/filter", {})}
    assert set(deployments) == {f"{flow}/local" for flow in FLOWS} | {
        "pretrain/gpu",
        "pretrain/kubernetes",
        "finetune/gpu",
        "tune/gpu",
    }
    for name, deployment in deployments.items():
        pool = name.partition("/")[2]
        assert deployment["work_pool_name"] == pool
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["tags"] == ([] if pool == "local" else ["gpu"])
        assert deployment["parameters"] == ({} if pool == "local" else {"push": True, "pull": True})
    (nightly,) = deployments["pipeline/local"]["schedules"]
    assert not nightly["active"]
    pools = {pool["name"]: pool["type"] for pool in api.ask("/work_pools/filter", {})}
    assert pools == {"local": "process", "gpu": "process", "kubernetes": "kubernetes"}


def test_the_pipeline_by_name(api: Api, tree: Tree, worker: Path) -> None:
    with changed(tree, serve__max_k=7):
        run = start(api, "pipeline/local")
        assert ended(api, run, worker)["type"] == "COMPLETED", worker.read_text()
        lock = YAML(typ="safe").load(tree.root / "dvc.lock")
        assert lock["stages"]["repository"]["params"]["params.yaml"]["serve"]["max_k"] == 7
        assert set(task_states(api, run)) == {"data.dvc", *lock["stages"]}
        assert "up to date" in tree.dvc("status")
        assert "Running stage 'repository':" in messages(api, run)
        artifacts = {artifact["key"]: artifact for artifact in api.ask("/artifacts/filter", {})}
        assert "itc_loss" in str(artifacts["metrics"]["data"])
        for key, page in PAGES.items():
            assert page in str(artifacts[key]["data"])
            assert (tree.root / page).is_file()


def test_a_canceled_run_leaves_no_process_and_the_next_goes_on(api: Api, tree: Tree, worker: Path) -> None:
    with changed(tree, pretrain__seed=3, pretrain__epochs=EPOCHS, pretrain__checkpoint_every=5):
        run = start(api, "pretrain/local")
        until(lambda: list(tree.root.glob("scratch/pretrain-*/checkpoint.pt")), 120, worker)
        assert any("albef pretrain" in words for words in processes(tree.root))
        done = subprocess.run([PREFECT, "flow-run", "cancel", run], env=api.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ended(api, run, worker)["type"] == "CANCELLED"
        until(lambda: not processes(tree.root), 30, worker)
        assert not list(tree.root.glob("artifacts/pretrain/model.pth"))

        again = start(api, "pretrain/local")
        assert ended(api, again, worker)["type"] == "COMPLETED"
        assert any("resuming at step" in message for message in messages(api, again))
        lock = YAML(typ="safe").load(tree.root / "dvc.lock")
        assert lock["stages"]["pretrain"]["params"]["params.yaml"]["pretrain"]["seed"] == 3


def test_bad_data_stops_what_follows_and_the_run_says_why(api: Api, tree: Tree, worker: Path) -> None:
    with changed(tree, validate__min_image_side=1000):
        run = start(api, "pretrain/local")
        state = ended(api, run, worker)
        tasks = task_states(api, run)
        assert state["type"] == tasks["validate"]["type"] == "FAILED"
        for message in (state["message"], tasks["validate"]["message"]):
            assert "expectation 'image_not_small' failed" in message
        assert tasks["prepare"]["type"] == "COMPLETED"
        assert {tasks[name]["name"] for name in ("tokenizer", "pretrain")} == {"NotReady"}
