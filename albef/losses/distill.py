"""Momentum distillation: the teacher's distribution as soft target (paper section 4)."""

from __future__ import annotations

from torch import Tensor


def is_active(alpha: float | Tensor) -> bool:
    """Return whether targets of the teacher are needed.

    A weight on the device is taken as positive.
    """
    return isinstance(alpha, Tensor) or alpha > 0


def ramped_alpha(alpha: float, step: int, ramp_steps: float) -> float:
    """Return the distillation weight at a step.

    It rises linearly from 0 over ``ramp_steps`` (official: the steps of the first epoch) and then stays at ``alpha``.
    Short runs of small models need a longer ramp, since the targets of an untrained teacher are noise.
    """
    return alpha * min(1.0, step / ramp_steps) if ramp_steps else alpha
