"""Momentum distillation: the teacher's distribution as soft target (paper section 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def is_active(alpha: float | Tensor) -> bool:
    """Return whether targets of the teacher are needed.

    A weight on the device is taken as positive.
    """
    return isinstance(alpha, Tensor) or alpha > 0


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of student and teacher logits, both ``(M, V)``.

    The target is the softmax of the teacher's logits.
    """
    soft = F.softmax(teacher_logits.float(), dim=-1)
    return -(F.log_softmax(logits.float(), dim=-1) * soft).sum() / max(logits.shape[0], 1)


def mix(hard: Tensor, logits: Tensor, teacher_logits: Tensor | None, alpha: float | Tensor) -> Tensor:
    """Return ``(1 - alpha) * hard + alpha * soft``.

    Without a teacher, or with ``alpha`` 0, this is the hard loss.
    """
    if teacher_logits is None or not is_active(alpha):
        return hard
    return (1 - alpha) * hard + alpha * soft_cross_entropy(logits, teacher_logits.detach())


def ramped_alpha(alpha: float, step: int, ramp_steps: float) -> float:
    """Return the distillation weight at a step.

    It rises linearly from 0 over ``ramp_steps`` (official: the steps of the first epoch) and then stays at ``alpha``.
    Short runs of small models need a longer ramp, since the targets of an untrained teacher are noise.
    """
    return alpha * min(1.0, step / ramp_steps) if ramp_steps else alpha
