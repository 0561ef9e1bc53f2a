"""Collectives over torch's default process group; no-ops in a single process.

B = rows of a rank's batch, W = world size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return the rank of this process, 0 without a process group."""
    return dist.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if _initialized() else 1


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Gather the rows of all ranks, in the order of ranks.

    All tensors are packed as bytes into a single collective.

    Args:
        tensors: Tensors ``(B, ...)`` of any types.

    Returns:
        Tensors ``(W * B, ...)``.
    """
    if world_size() == 1:
        return tensors
    rows = tensors[0].shape[0]
    parts = [tensor.contiguous().view(rows, -1).view(torch.uint8) for tensor in tensors]
    local = torch.cat(parts, dim=1)
    gathered = local.new_empty(world_size() * rows, local.shape[1])
    dist.all_gather_into_tensor(gathered, local)
    split = gathered.split([part.shape[1] for part in parts], dim=1)
    return tuple(
        part.contiguous().view(tensor.dtype).view(world_size() * rows, *tensor.shape[1:])
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


def barrier() -> None:
    """Wait until all ranks reach this call."""
    if world_size() > 1:
        dist.barrier()


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
