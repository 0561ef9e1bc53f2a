"""Precision of what is ranked."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast.

    Scores that are ranked are computed in it, from fp32 inputs: bfloat16 has 8 bits of precision, and ties cost recall.
    """
    kind = like.device.type
    # Entering autocast only where it is on keeps it out of exported graphs.
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
