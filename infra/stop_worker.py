"""Cancel what a Prefect worker runs, wait until it has ended, for a training saves what it has, and end the worker."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

ENDS_SECONDS = 60.0  # more than a flow gives its stages
TOLD_SECONDS = 15.0
WORKER_SECONDS = 15.0


async def stop(pid: int, mark: str) -> None:
    """Stop a worker and its runs, also those that it left when it died.

    Args:
        pid: Its process, or one that started it.
        mark: ``NAME=VALUE``, which the worker had in its environment and so its runs have in theirs.
    """
    engines = _engines(mark)
    if engines:
        print(f"Cancelling {len(engines)} run(s), which save what they have ...", file=sys.stderr)
        # Without a worker nobody would end them and say so; told to end by themselves, they call it a crash.
        if psutil.pid_exists(pid):
            try:
                await _cancel(engines)
            except Exception as error:  # without a server there is nobody to tell, and the runs are to end all the same
                print(f"Prefect: {error}", file=sys.stderr)
        _end(list(engines.values()), ENDS_SECONDS)  # a flow that is told to end stops its stages
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        _end([worker, *worker.children(recursive=True)], WORKER_SECONDS)


async def _cancel(engines: dict[UUID, psutil.Process]) -> None:
    async with get_client() as client:
        for run in engines:
            await client.set_flow_run_state(run, Cancelling(), force=True)
        await asyncio.to_thread(psutil.wait_procs, list(engines.values()), ENDS_SECONDS)
        for _ in range(int(TOLD_SECONDS / 0.5)):  # the worker tells the server how they ended
            states = [(await client.read_flow_run(run)).state for run in engines]
            if all(state is not None and state.is_final() for state in states):
                return
            await asyncio.sleep(0.5)


def _end(processes: list[psutil.Process], seconds: float) -> None:
    """End processes politely, then not."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, seconds)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _engines(mark: str) -> dict[UUID, psutil.Process]:
    """Processes of flow runs that a worker started, by run."""
    name, _, value = mark.partition("=")
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(name) == value and "prefect.engine" in process.cmdline():
                found[UUID(environment["PREFECT__FLOW_RUN_ID"])] = process
        except (psutil.Error, KeyError):
            continue
    return found


if __name__ == "__main__":
    asyncio.run(stop(int(sys.argv[1]), sys.argv[2]))
