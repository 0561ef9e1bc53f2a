"""Stop a Prefect worker after canceling its flow runs.

The script waits for the runs, because training saves a checkpoint when it is canceled.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

RUN_TIMEOUT = 60.0
"""Seconds for runs to end; longer than a flow waits for its stages."""
STATE_TIMEOUT = 15.0
"""Seconds for the worker to report the final states."""
WORKER_TIMEOUT = 15.0


async def stop(pid: int, mark: str) -> None:
    """Stop a worker and its runs, even if the worker has died.

    Args:
        pid: Process id of the worker or of its parent.
        mark: ``NAME=VALUE`` in the environment of the worker, which its runs inherit.
    """
    engines = _engines(mark)
    if engines:
        print(f"Canceling {len(engines)} run(s); training saves a checkpoint ...", file=sys.stderr)
        # Only the worker ends canceled runs and reports them as such; terminated directly, they report a crash.
        if psutil.pid_exists(pid):
            try:
                await _cancel(engines)
            except Exception as error:  # the runs have to end even without a Prefect server
                print(f"Prefect could not cancel the runs, terminating them: {error}", file=sys.stderr)
        _end(list(engines.values()), RUN_TIMEOUT)  # a terminated flow stops its stages
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        _end([worker, *worker.children(recursive=True)], WORKER_TIMEOUT)


async def _cancel(engines: dict[UUID, psutil.Process]) -> None:
    async with get_client() as client:
        for run in engines:
            await client.set_flow_run_state(run, Cancelling(), force=True)
        await asyncio.to_thread(psutil.wait_procs, list(engines.values()), RUN_TIMEOUT)
        for _ in range(int(STATE_TIMEOUT / 0.5)):  # the worker reports the final states to the server
            states = [(await client.read_flow_run(run)).state for run in engines]
            if all(state is not None and state.is_final() for state in states):
                break
            await asyncio.sleep(0.5)
        for run in engines:
            ended = await client.read_flow_run(run)
            print(f"Run {ended.name}: {ended.state_name}", file=sys.stderr)


def _end(processes: list[psutil.Process], seconds: float) -> None:
    """Terminate processes and kill those that remain after a timeout."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _engines(mark: str) -> dict[UUID, psutil.Process]:
    """Return the processes of a worker's flow runs by run id."""
    name, _, value = mark.partition("=")
    engines = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(name) == value and "prefect.engine" in process.cmdline():
                engines[UUID(environment["PREFECT__FLOW_RUN_ID"])] = process
        except (psutil.Error, KeyError):
            continue
    return engines


if __name__ == "__main__":
    asyncio.run(stop(int(sys.argv[1]), sys.argv[2]))
