"""Prefect tasks that run the stages of the DVC pipeline.

DVC defines the graph, the cache and the lock file. Every stage of ``dvc.yaml`` becomes a task that runs
``dvc repro --single-item STAGE`` after its upstream stages, unless ``dvc status`` found both it and them unchanged. The
graph is not duplicated here, and Prefect's own cache is disabled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
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

import psutil
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.states import Completed

ROOT = Path(__file__).resolve().parents[1]
BAD_INPUT = 2  # exit code of an `albef` stage with invalid data or parameters
GRACE_SECONDS = 20.0  # time for a training stage to save its state after SIGTERM
_EXIT_CODE = re.compile(r"exited with (-?\d+)")
_INVALID_PARAMETER = "Invalid `--set-param` value"
_QUIET = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


class StageError(RuntimeError):
    """A stage failed.

    Args:
        stage: Its name in ``dvc.yaml``.
        code: Exit code of the stage's command; None if DVC itself failed.
        tail: Last lines of the output.
    """

    def __init__(self, stage: str, code: int | None, tail: str) -> None:
        reason = "dvc failed" if code is None else f"its command exited with {code}"
        super().__init__(f"stage {stage}: {reason}:\n{tail}")
        self.code = code


def _environment() -> dict[str, str]:
    """Return the environment of a stage, with this Python first in ``PATH``."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    flow = {"ALBEF_FLOW_RUN": flow_run.name} if flow_run.name else {}  # becomes a tag of the MLflow runs
    return {**_QUIET, **os.environ, **flow, "PATH": path}


def dvc(*args: str) -> str:
    """Run a DVC command and return its output.

    Raises:
        RuntimeError: If the command fails, with its error output.
    """
    command = [sys.executable, "-m", "dvc", *args]
    result = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"dvc {' '.join(args)} failed:\n{result.stderr.strip()}")
    return result.stdout


def stages_of(group: str) -> list[str]:
    """Return the stages ``GROUP@TASK`` of all tasks."""
    return [name for name in stages() if name.startswith(f"{group}@")]


def stages(*targets: str) -> dict[str, set[str]]:
    """Return needed stages in topological order, each with its upstream stages.

    Args:
        targets: Stages of ``dvc.yaml``; all if empty.

    Raises:
        RuntimeError: If a stage does not exist; the message lists the existing ones.
    """
    graph = _parse_graph(dvc("dag", "--dot"))
    if unknown := [target for target in targets if target not in graph]:
        raise RuntimeError(f"{unknown[0]}: not a stage of dvc.yaml, expected one of {', '.join(sorted(graph))}")
    needed, queue = set(), list(targets or graph)
    while queue:
        stage = queue.pop()
        if stage not in needed:
            needed.add(stage)
            queue.extend(graph[stage])
    return {stage: graph[stage] for stage in TopologicalSorter(graph).static_order() if stage in needed}


def _parse_graph(dot: str) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {name: set() for name in re.findall(r'^"([^"]+)";', dot, re.MULTILINE)}
    for upstream, stage in re.findall(r'"([^"]+)" -> "([^"]+)"', dot):
        graph[stage].add(upstream)
    return graph


def _unchanged(graph: dict[str, set[str]]) -> set[str]:
    """Return the stages that neither changed nor follow a changed one.

    Args:
        graph: Stages in topological order, each with its upstream stages.
    """
    changed = set(json.loads(dvc("--wait-for-lock", "status", "--json", *graph)))
    unchanged: set[str] = set()
    for stage, upstream in graph.items():
        if stage not in changed and upstream <= unchanged:
            unchanged.add(stage)
    return unchanged


def _workspace_copies(pid: int) -> set[Path]:
    """Return the folders of experiments in which a process or its descendants work.

    DVC removes the folder of an experiment at its end, but not if it is stopped.
    """
    base = ROOT / ".dvc" / "tmp" / "exps"
    copies: set[Path] = set()
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error, ValueError):
                parts = Path(each.cwd()).relative_to(base).parts
                copies.add(base.joinpath(*parts[:2]))  # standalone/NAME
    return copies


class _ProcessGroups:
    """Process groups of running stages; Prefect would not stop them on cancellation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self.stopping = False

    def start(self, command: list[str], stderr: int = subprocess.STDOUT) -> subprocess.Popen[str]:
        with self._lock:
            if self.stopping:
                raise RuntimeError(f"cannot start `{' '.join(command)}`: the flow is being stopped")
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
        """Stop a process group with SIGTERM, then with SIGKILL.

        Copies of the workspace in which it worked are removed.
        """
        copies = _workspace_copies(process.pid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)
        for copy in copies:
            shutil.rmtree(copy, ignore_errors=True)
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


_processes = _ProcessGroups()


def _should_retry(task: Any, run: Any, state: Any) -> bool:
    """Return whether a retry may help, as after a crash."""
    if _processes.stopping:
        return False
    try:
        state.result()
    except StageError as error:
        return error.code != BAD_INPUT
    except Exception:
        return True
    return False


def _run_logged(name: str, *arguments: str) -> None:
    """Run DVC in a new process group and log its output."""
    logger = get_run_logger()
    process = _processes.start([sys.executable, "-m", "dvc", *arguments])
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-29:], line.rstrip()]
            if lines[-1]:
                logger.info("%s", lines[-1])
        failed = process.wait()
    finally:
        _processes.stop(process)
    if failed:
        tail = "\n".join(lines)
        codes = _EXIT_CODE.findall(tail) or ([str(BAD_INPUT)] if _INVALID_PARAMETER in tail else [])
        raise StageError(name, int(codes[-1]) if codes else None, tail)


def albef(name: str, *args: str) -> str:
    """Run an `albef` command and return its output.

    Args:
        name: Name of the command in the error.

    Raises:
        StageError: If the command fails, with its output.
    """
    process = _processes.start([sys.executable, "-m", "albef.cli", *args], stderr=subprocess.PIPE)
    try:
        output, errors = process.communicate()
    finally:
        _processes.stop(process)
    if process.returncode:
        raise StageError(name, process.returncode, (output + errors).strip()[-4000:])
    return output


_RETRY_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _should_retry,
}


@task(task_run_name="{stage}", **_RETRY_OPTIONS)
def repro(stage: str, pull: bool = False, unchanged: bool = False) -> State[None] | None:
    """Reproduce one stage, or download its outputs if ``pull`` is set.

    Args:
        unchanged: Do nothing and end in the state "Unchanged".

    Raises:
        StageError: If the stage fails.
    """
    if unchanged:
        return Completed(name="Unchanged", message="its dependencies and outputs are those of the last run")
    _run_logged(stage, "--wait-for-lock", "repro", "--single-item", *(["--pull"] if pull else []), stage)
    return None


@task(task_run_name="{name}", **_RETRY_OPTIONS)
def experiment(name: str, overrides: Sequence[str], targets: Sequence[str], pull: bool = False) -> None:
    """Reproduce stages with other parameters as the DVC experiment ``name``.

    The experiment runs in a copy of the workspace.

    Raises:
        StageError: If a stage fails, or a parameter does not exist.
    """
    params = [part for override in overrides for part in ("--set-param", override)]
    options = ["--temp", *(["--pull"] if pull else [])]
    _run_logged(name, "exp", "run", *options, "--name", name, *params, *targets)


def run(*targets: str, push: bool = False, pull: bool = False) -> list[str]:
    """Reproduce stages and everything they need; must be called inside a flow.

    Tasks inherit the tags of the flow run, so that a concurrency limit on ``gpu`` applies to them.

    Args:
        targets: Stages of ``dvc.yaml``; all if empty.
        push: Upload results and run cache to the DVC remote afterwards.
        pull: Download existing results from the DVC remote instead of computing them.

    Returns:
        Names of the stages, in topological order.

    Raises:
        StageError: If a stage fails; stages that do not depend on it have still run.
        RuntimeError: If the DVC remote is missing or a stage does not exist; nothing has run then.
    """
    graph = stages(*targets)
    _check_remote(push or pull)
    unchanged = _unchanged(graph)
    tasks: dict[str, PrefectFuture[Any]] = {}
    # No tags of its own: Prefect takes two seconds for a task with tags, to look for their limits.
    tagged = repro.with_options(tags=flow_run.tags or [])
    with _stop_processes_on_error():
        for stage, upstream in graph.items():
            wait_for = [tasks[name] for name in upstream]
            tasks[stage] = tagged.submit(stage, pull, stage in unchanged, wait_for=wait_for, return_state=False)
        wait(list(tasks.values()))
    failed = [future for future in tasks.values() if future.state.is_failed() or future.state.is_crashed()]
    for future in failed:
        future.result()
    if push:
        dvc("push", "--run-cache", *graph)
    return list(graph)


def run_experiment(overrides: Sequence[str], *targets: str, push: bool = False, pull: bool = False) -> str:
    """Reproduce stages with other parameters in a copy of the workspace.

    Must be called inside a flow.

    Args:
        overrides: Parameters as for ``dvc exp run --set-param``: ``pretrain.epochs=2``.
        targets: Stages of ``dvc.yaml``; all if empty.
        push: Upload the experiment's results and run cache to the DVC remote afterwards.
        pull: Download existing results from the DVC remote instead of computing them.

    Returns:
        Name of the DVC experiment, derived from the name of the flow run.

    Raises:
        StageError: If a stage fails, or a parameter does not exist; the workspace is unchanged.
        RuntimeError: If the DVC remote is missing or a stage does not exist; nothing has run then.
    """
    stages(*targets)
    _check_remote(push or pull)
    name = re.sub(r"[^A-Za-z0-9-]+", "-", flow_run.name or "experiment")
    with _stop_processes_on_error():
        task_run = experiment.with_options(tags=flow_run.tags or [])
        task_run.submit(name, list(overrides), list(targets), pull).result()
    if push:
        dvc("push", "--run-cache")
    return name


def _check_remote(needed: bool) -> None:
    if needed and not dvc("remote", "list").strip():
        raise RuntimeError(
            "no DVC remote is configured for push or pull; add one with `dvc remote add --default NAME URL`"
        )


@contextmanager
def _stop_processes_on_error() -> Iterator[None]:
    """Stop all running commands if the block raises, as on cancellation."""
    _processes.stopping = False
    try:
        yield
    except BaseException:
        _processes.stop_all()
        raise
