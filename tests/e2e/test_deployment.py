"""`make orchestrate`: deployments, runs by name, cancellation and its own end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from albef.tracking.tracker import EXPERIMENT
from tests.e2e.tree import Tree
from tests.integration.tracking.stores import free_port

FLOWS = ("pipeline", "pretrain", "tune", "finetune", "release", "drift")
PAGES = {
    "data-docs": "artifacts/validated/docs/index.html",
    "report": "artifacts/report/index.html",
    "plots": "artifacts/plots/index.html",
}
PREFECT = str(Path(sys.executable).parent / "prefect")


@dataclass(frozen=True)
class Stack:
    """A running ``infra/orchestrate.sh``.

    Args:
        url: Address of the Prefect API.
        environment: Environment of its client commands.
        folder: Folder of ``mlflow.db``.
        log: Output of the script and of everything it started.
    """

    script: subprocess.Popen[bytes]
    url: str
    environment: dict[str, str]
    folder: Path
    log: Path

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer to a GET request, or a POST request with a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def start(self, flow: str) -> str:
        """Start a run of a local deployment, and return its id."""
        deployment = self.ask(f"/deployments/name/{flow}/local")["id"]
        return str(self.ask(f"/deployments/{deployment}/create_flow_run", {})["id"])

    def until(self, condition: Callable[[], Any], seconds: float) -> Any:
        """Wait until the result of a condition is truthy, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"did not happen in time\n{self.log.read_text()}"
            time.sleep(0.5)
        return found

    def ended(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run, and return its final state."""

        def final() -> Any:
            state = self.ask(f"/flow_runs/{run}")["state"]
            return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        found: dict[str, Any] = self.until(final, 240)
        return found

    def task_states(self, run: str) -> dict[str, dict[str, Any]]:
        """Return the state of each task of a run."""
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state"] for task in found}

    def messages(self, run: str) -> list[str]:
        """Return the log messages of a run."""
        found = self.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return [entry["message"] for entry in found]

    def tracked(self) -> set[str]:
        """Return the names of flow runs whose training has a run in MLflow."""
        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        if not (experiment := client.get_experiment_by_name(EXPERIMENT)):
            return set()
        return {run.data.tags.get("flow_run", "") for run in client.search_runs([experiment.experiment_id])}


@contextmanager
def orchestrated(tree: Tree, folder: Path) -> Iterator[Stack]:
    """Run the script until its worker has started; afterwards nothing of it may be left."""
    port, log = free_port(), folder / "log"
    environment = {
        **tree.environment,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_PORT": str(port),
        "MLFLOW_PORT": str(free_port()),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "NO_COLOR": "1",
    }
    # A variable of a harness in this very process would lead the commands to it.
    environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    with (
        log.open("wb") as file,
        subprocess.Popen(
            ["bash", "infra/orchestrate.sh"],
            cwd=tree.root,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
        ) as script,
    ):
        stack = Stack(script, environment["PREFECT_API_URL"], environment, folder, log)
        try:
            stack.until(lambda: "Deployed; the worker is running" in log.read_text() or script.poll(), 180)
            yield stack
        finally:
            script.terminate()  # without effect if it has ended
            with suppress(subprocess.TimeoutExpired):
                script.wait(120)
            script.kill()
    assert not processes(tree.root), log.read_text()


@pytest.fixture(scope="module")
def stack(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with orchestrated(tree, tmp_path_factory.mktemp("stack")) as running:
        yield running


def processes(root: Path) -> list[str]:
    """Return the command lines of processes in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def at_work(root: Path) -> list[str]:
    """Return the command lines of flow runs and stages in a folder."""
    return [words for words in processes(root) if re.search(r"albef(\.sh)? |dvc|prefect\.engine", words)]


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


def test_the_deployments_are_named_as_documented(stack: Stack) -> None:
    flows = {flow["id"]: flow["name"] for flow in stack.ask("/flows/filter", {})}
    deployments = {f"{flows[d['flow_id']]}/{d['name']}": d for d in stack.ask("/deployments/filter", {})}
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
    pools = {pool["name"]: (pool["type"], pool["concurrency_limit"]) for pool in stack.ask("/work_pools/filter", {})}
    assert pools == {"local": ("process", None), "gpu": ("process", 1), "kubernetes": ("kubernetes", None)}


def test_the_pipeline_by_name(stack: Stack, tree: Tree) -> None:
    with changed(tree, serve__max_k=7):
        command = [PREFECT, "deployment", "run", "pipeline/local"]
        done = subprocess.run(command, env=stack.environment, capture_output=True, text=True)
        found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
        assert found, done.stdout + done.stderr
        run = found[1]
        assert stack.ended(run)["type"] == "COMPLETED", stack.log.read_text()
        lock = YAML(typ="safe").load(tree.root / "dvc.lock")
        assert lock["stages"]["repository"]["params"]["params.yaml"]["serve"]["max_k"] == 7
        assert set(stack.task_states(run)) == {"data.dvc", *lock["stages"]}
        assert "up to date" in tree.dvc("status")
        assert "Running stage 'repository':" in stack.messages(run)
        artifacts = {artifact["key"]: artifact for artifact in stack.ask("/artifacts/filter", {})}
        assert "itc_loss" in str(artifacts["metrics"]["data"])
        for key, page in PAGES.items():
            assert page in str(artifacts[key]["data"])
            assert (tree.root / page).is_file()


def test_bad_data_stops_what_follows_and_the_run_says_why(stack: Stack, tree: Tree) -> None:
    with changed(tree, validate__min_image_side=1000):
        run = stack.start("pretrain")
        state = stack.ended(run)
        tasks = stack.task_states(run)
        assert state["type"] == tasks["validate"]["type"] == "FAILED"
        for message in (state["message"], tasks["validate"]["message"]):
            assert "expectation 'image_not_small'" in message
        assert tasks["prepare"]["type"] == "COMPLETED"
        assert {tasks[name]["name"] for name in ("tokenizer", "pretrain")} == {"NotReady"}


def test_a_canceled_run_goes_on_in_the_next_and_ctrl_c_leaves_nothing(stack: Stack, tree: Tree) -> None:
    # The last test of this stack.
    with changed(tree, pretrain__seed=3, pretrain__epochs=2000, pretrain__checkpoint_every=5):
        run = stack.start("pretrain")
        stack.until(lambda: list(tree.root.glob("scratch/pretrain-*/checkpoint.pt")), 120)
        assert any("albef pretrain" in words for words in at_work(tree.root))
        stack.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": True})
        assert stack.ended(run)["type"] == "CANCELLED"
        stack.until(lambda: not at_work(tree.root), 30)

        again = stack.start("pretrain")
        stack.until(lambda: any("resuming at step" in message for message in stack.messages(again)), 120)
        names = {id: stack.ask(f"/flow_runs/{id}")["name"] for id in (run, again)}
        stack.until(lambda: stack.tracked() == {names[again]}, 60)  # the same run in MLflow, continued
        os.killpg(stack.script.pid, signal.SIGINT)  # as a terminal does
        assert stack.script.wait(120) == 0, stack.log.read_text()
        assert f"Run {names[again]}: Cancelled" in stack.log.read_text()
        assert not processes(tree.root)
        assert not (tree.root / "artifacts/pretrain/model.pth").exists()


def test_a_worker_that_dies_ends_everything_and_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    with orchestrated(tree, tmp_path) as stack:
        (worker,) = (each for each in psutil.Process(stack.script.pid).children() if "worker" in each.cmdline())
        worker.kill()
        assert stack.script.wait(120) == 1, stack.log.read_text()
        assert "The server or the worker has stopped unexpectedly" in stack.log.read_text()
