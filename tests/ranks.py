"""Functions run by several ranks of a gloo process group, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import torch
import torch.distributed as dist

T = TypeVar("T")


def in_ranks(world: int, function: Callable[[], T]) -> list[T]:
    """Return the results of a function, by rank."""
    # Forked from a process that has imported torch once and done nothing else: importing it takes longer than these
    # tests, and a process that has trained cannot be forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["albef.tasks.evaluation", "albef.training.job", "tests.served"])
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        arguments = (world, Path(folder) / "store", cloudpickle.dumps(function))
        processes = [
            context.Process(target=_run, args=(rank, *arguments, sender)) for rank, (_, sender) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()  # so that the end of a process is the end of its pipe
        try:
            return [_result(receiver) for receiver, _ in pipes]
        finally:
            for process in processes:
                process.kill()
                process.join()


def _result(receiver: Connection) -> Any:
    error, result = pickle.loads(receiver.recv_bytes())
    assert not error, error
    return result


def _run(rank: int, world: int, store: Path, function: bytes, sender: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        sender.send_bytes(pickle.dumps(("", pickle.loads(function)())))
        dist.barrier()
    except BaseException:
        sender.send_bytes(pickle.dumps((traceback.format_exc(), None)))
