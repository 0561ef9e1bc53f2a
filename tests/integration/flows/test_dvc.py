"""Prefect flows on a toy DVC pipeline of shell commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.context import get_run_context
from prefect.settings import PREFECT_API_URL

from flows import _dvc, _show
from tests import ROOT
from tests.errors import refuses

pytestmark = [pytest.mark.usefixtures("prefect_harness")]

TOY = """
stages:
  raw:
    cmd: mkdir -p out && echo "composing" && cp switch out/raw
    deps: [switch]
    outs: [out/raw]
  train:
    matrix: {task: [a, b]}
    cmd: bash train.sh out/${item.task}
    deps: [out/raw, train.sh]
    outs:
    - out/${item.task}
  score:
    cmd: >-
      mkdir -p artifacts/score && echo "{\\"accuracy\\":$(cut -d ' ' -f 2 params.yaml)}" > artifacts/score/metrics.json
    deps: [out/a, out/b]
    params: [share]
    outs: [artifacts/score/metrics.json]
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repository of the toy pipeline; git and DVC take seconds to create one."""
    root = tmp_path_factory.mktemp("toy")
    (root / "switch").write_text("1\n")
    (root / "train.sh").write_text("cp out/raw $1\n")
    (root / "params.yaml").write_text("share: 0.25\n")
    (root / "dvc.yaml").write_text(TOY)
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "toy"],
    ):
        subprocess.run(command, cwd=root, check=True)
    return root


@pytest.fixture
def toy(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Toy pipeline: raw -> train@a, train@b -> score."""
    root = tmp_path / "toy"
    shutil.copytree(template, root)
    monkeypatch.setattr(_dvc, "ROOT", root)
    fast = _dvc.repro.with_options(retry_delay_seconds=[0.1, 0.1])
    monkeypatch.setattr(_dvc, "repro", fast)
    return root


@flow(name="toy")
def toy_flow(*targets: str, push: bool = False, pull: bool = False) -> tuple[list[str], str]:
    names = _dvc.run(*targets, push=push, pull=pull)
    if not targets:
        _show.publish(names)
    return names, str(get_run_context().flow_run.id)  # type: ignore[union-attr]


@flow(name="toy-experiment")
def toy_experiment(overrides: list[str], *targets: str, pull: bool = False) -> None:
    _show.reproduce(targets, overrides, pull=pull, push=False)


def _artifacts(key: str) -> str:
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
        found = client.request("POST", "/artifacts/filter", json=wanted)
    return found.text


def _logs(flow_run_id: str) -> list[str]:
    # Logs are sent in batches.
    for _ in range(50):
        with get_client(sync_client=True) as client:
            found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        if any("composing" in log.message for log in found):
            break
        time.sleep(0.2)
    return [log.message for log in found]


def _states(flow_run_id: str) -> dict[str, str]:
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return {run.name: run.state_name for run in client.read_task_runs(flow_run_filter=wanted)}


def _status(root: Path) -> str:
    command = [sys.executable, "-m", "dvc", "status"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_stages_come_after_what_they_need(toy: Path) -> None:
    graph = _dvc.stages()
    assert graph == {"raw": set(), "train@a": {"raw"}, "train@b": {"raw"}, "score": {"train@a", "train@b"}}
    order = list(graph)
    assert order[0] == "raw"
    assert order[-1] == "score"


def test_a_target_brings_its_upstream_stages_alone(toy: Path) -> None:
    assert set(_dvc.stages("train@b")) == {"raw", "train@b"}


def test_an_unknown_target_is_named(toy: Path) -> None:
    with refuses(RuntimeError, "nonsense", "dvc.yaml", "raw, score, train@a, train@b"):
        _dvc.stages("train@b", "nonsense")


def test_several_targets_share_their_upstream_stages(toy: Path) -> None:
    assert next(iter(_dvc.stages("train@b", "train@a"))) == "raw"
    assert set(_dvc.stages("train@b", "train@a")) == {"raw", "train@a", "train@b"}


def test_everything_runs_is_shown_and_leaves_dvc_clean(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # Each training waits for the other to have started: one after the other would fail.
    both = '[ "$(ls started-* | wc -l)" = 2 ]'
    wait = f"for i in $(seq 200); do {both} && break; sleep 0.1; done"
    (toy / "train.sh").write_text(f"touch started-${{1##*/}}; {wait}; {both} && cp out/raw $1\n")
    remote = tmp_path_factory.mktemp("remote")
    _dvc.dvc("remote", "add", "-d", "store", str(remote))
    names, run_id = toy_flow()
    assert set(names) == {"raw", "train@a", "train@b", "score"}
    assert "up to date" in _status(toy)
    assert any("composing" in line for line in _logs(run_id))
    assert "accuracy" in _artifacts("metrics")
    assert not any(remote.iterdir())  # nothing leaves the machine unasked

    assert set(_states(run_id).values()) == {"Completed"}

    made = (toy / "out/a").stat()
    _, run_id = toy_flow("train@a", push=True)
    assert (toy / "out/a").stat() == made
    assert _states(run_id) == {"raw": "Unchanged", "train@a": "Unchanged"}
    assert any(path.is_file() and path.read_text() == "1\n" for path in remote.rglob("*"))

    (toy / "out/b").unlink()
    assert _dvc._unchanged(_dvc.stages()) == {"raw", "train@a"}  # not what follows train@b
    (toy / "switch").write_text("2\n")
    assert _dvc._unchanged(_dvc.stages()) == set()


def test_what_the_remote_has_is_not_computed_again(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (toy / "train.sh").write_text(f"echo x >> {toy}/tries; cp out/raw $1\n")  # an experiment runs elsewhere
    _dvc.dvc("remote", "add", "-d", "store", str(tmp_path_factory.mktemp("remote")))
    toy_flow("train@a", pull=True, push=True)  # an empty remote is no obstacle
    for name in ("out", ".dvc/cache"):
        shutil.rmtree(toy / name)
    (toy / "dvc.lock").unlink()
    toy_flow("train@a", pull=True)
    assert (toy / "out/a").read_text() == "1\n"
    assert len((toy / "tries").read_text().split()) == 1
    # An experiment finds it, too.
    for name in ("out", ".dvc/cache"):
        shutil.rmtree(toy / name)
    toy_experiment(["share=0.5"], "train@a", pull=True)
    assert len((toy / "tries").read_text().split()) == 1


def test_pushing_to_nowhere_is_said_before_anything_runs(toy: Path) -> None:
    with refuses(RuntimeError, "DVC", "dvc remote add"):
        toy_flow("raw", push=True)
    assert not (toy / "out").exists()


def test_other_parameters_make_an_experiment_and_leave_the_workspace(toy: Path) -> None:
    toy_experiment(["share=0.75"], "score")
    assert (toy / "params.yaml").read_text() == "share: 0.25\n"
    assert not (toy / "out").exists()
    rows = json.loads(json.loads(_artifacts("experiment"))[0]["data"])
    found = {(row["of"], row["name"]): (row["before"], row["after"]) for row in rows}
    assert found[("params", "share")] == (0.25, 0.75)
    assert found[("metrics", "accuracy")][1] == 0.75
    (name,) = _dvc.dvc("exp", "list", "--name-only").split()
    _dvc.dvc("exp", "apply", name)
    assert json.loads((toy / "artifacts/score/metrics.json").read_text()) == {"accuracy": 0.75}


def test_an_unknown_parameter_is_named_and_not_tried_again(toy: Path) -> None:
    with refuses(_dvc.StageError, "'shore'") as caught:
        toy_experiment(["shore=0.75"], "raw")
    assert caught.value.code == _dvc.BAD_INPUT  # for which there is no second try
    assert (toy / "params.yaml").read_text() == "share: 0.25\n"


def test_a_stage_that_was_killed_is_tried_again(toy: Path) -> None:
    (toy / "train.sh").write_text("echo x >> tries; [ $(wc -l < tries) -ge 3 ] || kill -9 $$; cp out/raw $1\n")
    toy_flow("train@a")
    assert len((toy / "tries").read_text().split()) == 3


def test_bad_input_is_not_tried_again_and_leaves_the_other_branch_to_finish(toy: Path) -> None:
    (toy / "train.sh").write_text(
        "[ $1 = out/b ] && { cp out/raw $1; exit; }\necho x >> tries; echo row 7 has no caption; exit 2\n"
    )
    with refuses(_dvc.StageError, "train@a", 2, "row 7"):
        toy_flow("score")
    assert len((toy / "tries").read_text().split()) == 1
    assert (toy / "out/b").is_file()
    assert not (toy / "artifacts/score").exists()


SCRIPT = """
import sys
from pathlib import Path
from prefect import flow
from flows import _dvc

_dvc.ROOT = Path(sys.argv[1])

@flow(name="stopped")
def stopped():
    RUN

_dvc.GRACE_SECONDS = 3
stopped()
"""


@pytest.mark.parametrize("run", ['_dvc.run("train@a")', '_dvc.run_experiment(["share=0.75"], "train@a")'])
def test_stopping_a_flow_stops_its_stages(toy: Path, run: str) -> None:
    # The stage saves its state when told to stop, as training does; its child ignores that and has to be killed.
    (toy / "train.sh").write_text(
        f"trap 'echo saved > {toy}/saved; exit 143' TERM\n(trap '' TERM; echo $BASHPID > {toy}/child; sleep 600) &\n"
        f"pwd > {toy}/folder\necho $$ > {toy}/parent\nwhile true; do sleep 0.1; done\n"
    )
    script = toy / "stopped.py"
    script.write_text(SCRIPT.replace("RUN", run))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
    }
    process = subprocess.Popen([sys.executable, str(script), str(toy)], env=environment)
    try:
        _wait_for(lambda: (toy / "child").is_file() and (toy / "parent").is_file(), 60)
        pids = [int((toy / name).read_text()) for name in ("parent", "child")]
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert (toy / "saved").is_file()
        _wait_for(lambda: not any(_alive(pid) for pid in pids), 10)
        folder = Path((toy / "folder").read_text().strip())
        assert folder.is_relative_to(toy / ".dvc/tmp/exps") is ("experiment" in run)
        assert folder.exists() is (folder == toy)  # nothing is left of an experiment
    finally:
        process.kill()
    # The lock of the killed run is no obstacle.
    (toy / "train.sh").write_text("cp out/raw $1\n")
    _dvc.dvc("repro", "train@a")


def _alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)
