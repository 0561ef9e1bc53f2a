"""What workers that train together tell one another, over torch's process group; one alone has nobody to tell.

B = rows of a worker's batch, W = workers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if _together() else 0


def count() -> int:
    """How many train together."""
    return dist.get_world_size() if _together() else 1


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows ``(W * B, ...)`` of all workers, by rank, of tensors ``(B, ...)`` of whatever types.

    One exchange for all of them: their bytes side by side.
    """
    if count() == 1:
        return tensors
    rows = tensors[0].shape[0]
    parts = [tensor.contiguous().view(rows, -1).view(torch.uint8) for tensor in tensors]
    own = torch.cat(parts, dim=1)
    every = own.new_empty(count() * rows, own.shape[1])
    dist.all_gather_into_tensor(every, own)
    split = every.split([part.shape[1] for part in parts], dim=1)
    return tuple(
        part.contiguous().view(tensor.dtype).view(count() * rows, *tensor.shape[1:])
        for part, tensor in zip(split, tensors, strict=True)
    )


def mean(values: Tensor) -> Tensor:
    """Mean over the workers, entry by entry."""
    if count() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / count()


def gather(thing: Any) -> list[Any]:
    """Each worker's plain data, by rank."""
    if count() == 1:
        return [thing]
    every: list[Any] = [None] * count()
    dist.all_gather_object(every, thing)
    return every


def wait() -> None:
    """Go on once all workers are here."""
    if count() > 1:
        dist.barrier()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
