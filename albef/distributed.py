"""Collectives over torch's default process group, and shares of work; no-ops in a single process.

B = rows of a rank's batch, W = world size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")
V = TypeVar("V")


def rank() -> int:
    """Return the rank of this process, 0 without a process group."""
    return dist.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if _initialized() else 1


def sizes(total: int, groups: int) -> list[int]:
    """Return the sizes of groups of rows.

    They differ by one at most; larger ones come first.
    """
    return [total // groups + (group < total % groups) for group in range(groups)]


def gather_rows(*tensors: Tensor, counts: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Gather the rows of all ranks, in the order of ranks.

    All tensors are packed as bytes into a single collective.

    Args:
        tensors: Tensors ``(B, ...)`` of any types.
        counts: B of each rank; by default all are equal.

    Returns:
        Tensors ``(sum of B, ...)``.
    """
    if world_size() == 1:
        return tensors
    rows = tensors[0].shape[0]
    counts = counts or [rows] * world_size()
    parts = [tensor.contiguous().view(rows, -1).view(torch.uint8) for tensor in tensors]
    local = F.pad(torch.cat(parts, dim=1), (0, 0, 0, max(counts) - rows))
    gathered = local.new_empty(world_size(), *local.shape)
    dist.all_gather_into_tensor(gathered.view(-1, local.shape[1]), local)
    packed = torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
    split = packed.split([part.shape[1] for part in parts], dim=1)
    return tuple(
        part.contiguous().view(tensor.dtype).view(len(packed), *tensor.shape[1:])
        for part, tensor in zip(split, tensors, strict=True)
    )


def all_reduce_mean(values: Tensor) -> Tensor:
    """Return the element-wise mean over the ranks."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def all_true(value: Tensor) -> Tensor:
    """Return whether a boolean scalar is true on all ranks."""
    if world_size() == 1:
        return value
    count = value.to(torch.int32)
    dist.all_reduce(count, dist.ReduceOp.MIN)
    return count.bool()


def any_true(value: bool, device: torch.device) -> bool:
    """Return whether a value is true on any rank; waits for all of them."""
    if world_size() == 1:
        return value
    count = torch.tensor(int(value), device=device)
    dist.all_reduce(count, dist.ReduceOp.MAX)
    return bool(count)


def gather_objects(value: Any) -> list[Any]:
    """Gather picklable objects of all ranks, in the order of ranks."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def share(items: Sequence[T]) -> list[T]:
    """Return every W-th item, so that items in order of size make equal shares."""
    return list(items[rank() :: world_size()])


def batches(total: int, size: int) -> list[range]:
    """Return this rank's share of the batches of rows."""
    return share([range(start, min(start + size, total)) for start in range(0, total, size)])


def merge(results: dict[int, V]) -> dict[int, V]:
    """Return the union of the results of all ranks, by row."""
    return {row: value for part in gather_objects(results) for row, value in part.items()}


def barrier() -> None:
    """Wait until all ranks reach this call."""
    if world_size() > 1:
        dist.barrier()


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
