"""``make orchestrate`` with a run under way, until Ctrl-C or the end of its worker."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_deployment import PREFECT, changed, processes, until
from tests.e2e.tree import Tree
from tests.integration.tracking.stores import free_port

pytestmark = pytest.mark.pipeline


@contextmanager
def orchestrated(tree: Tree, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The script with a long pretraining under way, and its log."""
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
                run = [PREFECT, "deployment", "run", "pretrain/local"]
                done = subprocess.run(run, cwd=tree.root, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
                until(lambda: told(folder), 120, log)
                assert any("albef pretrain" in words for words in processes(tree.root))
                yield script, log
            finally:
                script.kill()
        assert not processes(tree.root), log.read_text()
        assert not (tree.root / "artifacts/pretrain/model.pth").exists()


def flow_run(folder: Path) -> tuple[str, str]:
    """Its name, and how it ended."""
    with sqlite3.connect(folder / "prefect/prefect.db") as database:
        (found,) = database.execute("select name, state_type from flow_run where state_type != 'SCHEDULED'")
    return found


def told(folder: Path) -> list[str]:
    """The flow runs of which MLflow has heard by a training."""
    with suppress(sqlite3.OperationalError), sqlite3.connect(folder / "mlflow.db") as database:
        return [name for (name,) in database.execute("select value from tags where key = 'flow_run'")]
    return []


def test_ctrl_c_cancels_what_runs_and_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    with orchestrated(tree, tmp_path) as (script, log):
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does
        assert script.wait(120) == 0, log.read_text()
    name, state = flow_run(tmp_path)
    assert state == "CANCELLED", log.read_text()
    assert told(tmp_path) == [name]


def test_a_worker_that_dies_ends_everything_and_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    with orchestrated(tree, tmp_path) as (script, log):
        (worker,) = (each for each in psutil.Process(script.pid).children() if "worker" in each.cmdline())
        worker.kill()
        assert script.wait(120) == 1, log.read_text()
        assert "The server or the worker has stopped unexpectedly" in log.read_text()
    assert flow_run(tmp_path)[1] == "CRASHED", log.read_text()
