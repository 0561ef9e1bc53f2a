"""End of `make orchestrate` by Ctrl-C or a dead worker."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from mlflow import MlflowClient

from albef.tracking.tracker import EXPERIMENT
from tests.e2e.test_deployment import PREFECT, changed, processes, until
from tests.e2e.tree import Tree
from tests.integration.tracking.stores import free_port


@contextmanager
def orchestrated(tree: Tree, folder: Path, training: bool) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Yield the running script and its log; with ``training``, a long pretraining runs."""
    port, log = free_port(), folder / "log"
    environment = {
        **tree.environment,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_PORT": str(port),
        "MLFLOW_PORT": str(free_port()),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    with changed(tree, pretrain__seed=5, pretrain__epochs=2000), log.open("wb") as file:
        command = ["bash", "infra/orchestrate.sh"]
        with subprocess.Popen(
            command,
            cwd=tree.root,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
        ) as script:
            try:
                until(lambda: "Deployed; the worker is running" in log.read_text() or script.poll(), 180, log)
                if training:
                    run = [PREFECT, "deployment", "run", "pretrain/local"]
                    done = subprocess.run(run, cwd=tree.root, env=environment, capture_output=True, text=True)
                    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
                    until(lambda: tracked_flow_runs(folder), 120, log)
                    assert any("albef pretrain" in words for words in processes(tree.root))
                yield script, log
            finally:
                script.kill()
        assert not processes(tree.root), log.read_text()
        assert (tree.root / "artifacts/pretrain/model.pth").exists() is not training


def tracked_flow_runs(folder: Path) -> set[str]:
    """Return the flow runs whose training has a run in MLflow."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    if not (experiment := client.get_experiment_by_name(EXPERIMENT)):
        return set()
    return {run.data.tags.get("flow_run", "") for run in client.search_runs([experiment.experiment_id])}


def test_ctrl_c_cancels_what_runs_and_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    with orchestrated(tree, tmp_path, training=True) as (script, log):
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does
        assert script.wait(120) == 0, log.read_text()
    (name,) = tracked_flow_runs(tmp_path)
    assert f"Run {name}: Cancelled" in log.read_text()


def test_a_worker_that_dies_ends_everything_and_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    with orchestrated(tree, tmp_path, training=False) as (script, log):
        (worker,) = (each for each in psutil.Process(script.pid).children() if "worker" in each.cmdline())
        worker.kill()
        assert script.wait(120) == 1, log.read_text()
        assert "The server or the worker has stopped unexpectedly" in log.read_text()
