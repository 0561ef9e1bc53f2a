"""``make orchestrate`` until Ctrl-C, with a run under way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.flows.test_deployment import PREFECT, changed, processes, until
from tests.pipeline.tree import Tree
from tests.tracking.stores import free_port

pytestmark = pytest.mark.pipeline


def test_ctrl_c_cancels_what_runs_and_leaves_nothing(tree: Tree, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    environment = {
        **tree.environment,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_PORT": str(port),
        "MLFLOW_PORT": str(free_port()),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
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
                until(lambda: "Deployed, and a worker takes their runs" in log.read_text() or script.poll(), 180, log)
                run = [PREFECT, "deployment", "run", "pretrain/local"]
                done = subprocess.run(run, cwd=tree.root, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
                until(lambda: any("albef pretrain" in words for words in processes(tree.root)), 120, log)
                os.killpg(script.pid, signal.SIGINT)  # as a terminal does
                assert script.wait(120) == 0, log.read_text()
            finally:
                script.kill()
        assert not processes(tree.root), log.read_text()
        assert not (tree.root / "artifacts/pretrain/model.pth").exists()
        with sqlite3.connect(tmp_path / "prefect/prefect.db") as database:
            (state,) = database.execute("select state_type from flow_run where state_type != 'SCHEDULED'")
        assert state == ("CANCELLED",), log.read_text()
