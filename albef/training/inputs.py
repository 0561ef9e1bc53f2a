"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MULTIPLE = 8


def on_device(batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield batches with their tensors on the device.

    On a GPU, the next one is copied while the current one is used.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _moved(batch, device)
        return
    stream = torch.cuda.Stream()
    ahead: tuple[dict[str, Any], torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = _moved(batch, device)
            event = torch.cuda.Event()
            event.record(stream)
        if ahead is not None:
            yield _available(*ahead)
        ahead = copied, event
    if ahead is not None:
        yield _available(*ahead)


def _moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _available(batch: dict[str, Any], event: torch.cuda.Event) -> dict[str, Any]:
    stream = torch.cuda.current_stream()
    stream.wait_event(event)
    for value in batch.values():
        if isinstance(value, Tensor):
            value.record_stream(stream)
    return batch


def padded(batch: dict[str, Tensor], pad: int, length: int | None) -> dict[str, Tensor]:
    """Pad the texts of a batch so that few shapes occur.

    They get ``length`` tokens, or a multiple of 8 if that is None.
    """
    tokens = batch["input_ids"].shape[1]
    missing = length - tokens if length is not None and length >= tokens else -tokens % _MULTIPLE
    if missing == 0:
        return batch
    texts = {
        "input_ids": F.pad(batch["input_ids"], (0, missing), value=pad),
        "attention_mask": F.pad(batch["attention_mask"], (0, missing)),
    }
    return {**batch, **texts}
