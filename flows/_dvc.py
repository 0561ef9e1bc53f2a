"""A Prefect view of the DVC pipeline: DVC owns the graph, the cache and the lock file, Prefect runs and shows it.

Every stage of ``dvc.yaml`` becomes a task that runs ``dvc repro --single-item STAGE`` after its upstream stages.
Nothing about the graph is written down a second time, and Prefect's own cache stays off.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run

ROOT = Path(__file__).resolve().parents[1]
BAD_INPUT = 2  # exit code of an `albef` stage that refuses its data or parameters
GRACE_SECONDS = 20.0  # a training stage saves its state when told to stop
_EXITED = re.compile(r"exited with (-?\d+)")
_NO_PARAMETER = "Invalid `--set-param` value"
_QUIET = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


class StageError(RuntimeError):
    """A stage failed.

    Args:
        stage: Its name in ``dvc.yaml``.
        code: Exit code of the stage's command, or None where DVC itself failed.
        tail: The last lines it printed.
    """

    def __init__(self, stage: str, code: int | None, tail: str) -> None:
        why = "dvc failed" if code is None else f"its command ended with {code}"
        super().__init__(f"stage {stage}: {why}:\n{tail}")
        self.code = code


def _environment() -> dict[str, str]:
    """The stages' commands are those of the environment that runs this flow, whatever PATH a worker has."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # An experiment runs in a folder that is gone afterwards, and its MLflow runs are to stay.
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{ROOT / 'mlflow.db'}"}
    flow = {"ALBEF_FLOW_RUN": flow_run.name} if flow_run.name else {}  # a tag of its MLflow runs
    return {**_QUIET, **store, **os.environ, **flow, "PATH": path}


def dvc(*args: str) -> str:
    """Output of a DVC command.

    Raises:
        RuntimeError: If it fails, with what it said.
    """
    command = [sys.executable, "-m", "dvc", *args]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"dvc {' '.join(args)} failed:\n{done.stderr.strip()}")
    return done.stdout


def stages(*targets: str) -> dict[str, set[str]]:
    """Stages that ``targets`` need (all without one), each after its upstream stages, with those stages.

    Raises:
        RuntimeError: If there is no such stage; the message names those there are.
    """
    graph = _edges(dvc("dag", "--dot"))
    if unknown := [target for target in targets if target not in graph]:
        raise RuntimeError(f"{unknown[0]}: no stage of dvc.yaml, expected one of {', '.join(sorted(graph))}")
    wanted, queue = set(), list(targets or graph)
    while queue:
        stage = queue.pop()
        if stage not in wanted:
            wanted.add(stage)
            queue.extend(graph[stage])
    return {stage: graph[stage] for stage in TopologicalSorter(graph).static_order() if stage in wanted}


def _edges(dot: str) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {name: set() for name in re.findall(r'^"([^"]+)";', dot, re.MULTILINE)}
    for upstream, stage in re.findall(r'"([^"]+)" -> "([^"]+)"', dot):
        graph[stage].add(upstream)
    return graph


class _Running:
    """The process groups of running stages. Cancelling a flow would leave them alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self.stopping = False

    def start(self, command: list[str], stderr: int = subprocess.STDOUT) -> subprocess.Popen[str]:
        with self._lock:
            if self.stopping:
                raise RuntimeError("the flow is being stopped")
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._processes.add(process)
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        """End a process and all it started: politely, then not. Does nothing where all have ended."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)
        with self._lock:
            self._processes.discard(process)

    def stop_all(self) -> None:
        with self._lock:
            self.stopping = True
            processes = list(self._processes)
        threads = [threading.Thread(target=self.stop, args=(p,)) for p in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


_running = _Running()


def _worth_another_try(task: Any, run: Any, state: Any) -> bool:
    """Bad data or parameters stay bad; a killed process, a lock or a network may not."""
    if _running.stopping:
        return False
    try:
        state.result()
    except StageError as error:
        return error.code != BAD_INPUT
    except Exception:
        return True
    return False


def _follow(name: str, *arguments: str) -> None:
    """Run a DVC command as a process group of its own; its output goes to the task's log line by line."""
    logger = get_run_logger()
    process = _running.start([sys.executable, "-m", "dvc", *arguments])
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-29:], line.rstrip()]
            if lines[-1]:
                logger.info("%s", lines[-1])
        failed = process.wait()
    finally:
        _running.stop(process)
    if failed:
        tail = "\n".join(lines)
        codes = _EXITED.findall(tail) or ([str(BAD_INPUT)] if _NO_PARAMETER in tail else [])
        raise StageError(name, int(codes[-1]) if codes else None, tail)


def albef(name: str, *args: str) -> str:
    """Output of an `albef` command; ``name`` is what the error calls it.

    Raises:
        StageError: If it fails, with what it said.
    """
    process = _running.start([sys.executable, "-m", "albef.cli", *args], stderr=subprocess.PIPE)
    try:
        said, complaints = process.communicate()
    finally:
        _running.stop(process)
    if process.returncode:
        raise StageError(name, process.returncode, (said + complaints).strip()[-4000:])
    return said


_PATIENT: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_another_try,
}


@task(task_run_name="{stage}", **_PATIENT)
def repro(stage: str, pull: bool = False) -> None:
    """Bring one stage up to date, with ``pull`` from the DVC remote where that has it.

    Raises:
        StageError: If it fails.
    """
    _follow(stage, "--wait-for-lock", "repro", "--single-item", *(["--pull"] if pull else []), stage)


@task(task_run_name="{name}", **_PATIENT)
def experiment(name: str, overrides: Sequence[str], targets: Sequence[str], pull: bool = False) -> None:
    """Bring stages up to date with other parameters, in a copy of the workspace, as the DVC experiment ``name``.

    Raises:
        StageError: If a stage fails, or there is no such parameter.
    """
    given = [part for override in overrides for part in ("--set-param", override)]
    how = ["--temp", *(["--pull"] if pull else [])]
    _follow(name, "exp", "run", *how, "--name", name, *given, *targets)


def run(*targets: str, push: bool = False, pull: bool = False) -> list[str]:
    """Bring ``targets`` and everything they need up to date, or the whole pipeline; to be called inside a flow.

    The tags of the flow run pass to its tasks, so that a concurrency limit on ``gpu`` holds them back.

    Args:
        targets: Stages of ``dvc.yaml``.
        push: Afterwards upload results and run cache to the DVC remote.
        pull: Take from the DVC remote what it has, so that nothing is computed twice.

    Raises:
        StageError: If a stage fails; stages that do not depend on it still ran.
        RuntimeError: If there is no DVC remote to push to or pull from, or no such stage; nothing ran then.
    """
    graph = stages(*targets)
    _remote(push or pull)
    tasks: dict[str, PrefectFuture[None]] = {}
    with _stopped_with_the_flow():
        for stage, upstream in graph.items():
            tags = [stage.partition("@")[0], *(flow_run.tags or [])]
            wait_for = [tasks[name] for name in upstream]
            tasks[stage] = repro.with_options(tags=tags).submit(stage, pull, wait_for=wait_for, return_state=False)
        wait(list(tasks.values()))
    failed = [future for future in tasks.values() if future.state.is_failed() or future.state.is_crashed()]
    for future in failed:
        future.result()
    if push:
        dvc("push", "--run-cache", *graph)
    return list(graph)


def run_experiment(overrides: Sequence[str], *targets: str, push: bool = False, pull: bool = False) -> str:
    """Bring ``targets`` up to date with other parameters, beside the workspace; to be called inside a flow.

    Args:
        overrides: As ``dvc exp run --set-param`` takes them: ``pretrain.epochs=2``.
        targets: Stages of ``dvc.yaml``; all without one.
        push: Afterwards upload the experiment's results and run cache to the DVC remote.
        pull: Take from the DVC remote what it has.

    Returns:
        Name of the DVC experiment: that of the flow run.

    Raises:
        StageError: If a stage fails, or there is no such parameter; the workspace is as it was.
        RuntimeError: If there is no DVC remote to push to or pull from, or no such stage; nothing ran then.
    """
    stages(*targets)
    _remote(push or pull)
    name = re.sub(r"[^A-Za-z0-9-]+", "-", flow_run.name or "experiment")
    with _stopped_with_the_flow():
        task_run = experiment.with_options(tags=flow_run.tags or [])
        task_run.submit(name, list(overrides), list(targets), pull).result()
    if push:
        dvc("push", "--run-cache")
    return name


def _remote(wanted: bool) -> None:
    if wanted and not dvc("remote", "list").strip():
        raise RuntimeError(
            "no DVC remote is configured to push to or pull from; add one: dvc remote add --default NAME URL"
        )


@contextmanager
def _stopped_with_the_flow() -> Iterator[None]:
    """Within the block, whatever ends the flow ends the commands it runs."""
    _running.stopping = False
    try:
        yield
    except BaseException:
        _running.stop_all()
        raise
