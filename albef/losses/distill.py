"""Momentum distillation: the teacher's distribution as a soft target (paper section 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy between the teacher's softmax and the student's; both ``(M, V)``."""
    soft = F.softmax(teacher_logits.float(), dim=-1)
    return -(F.log_softmax(logits.float(), dim=-1) * soft).sum() / max(logits.shape[0], 1)


def mix(hard: Tensor, logits: Tensor, teacher_logits: Tensor | None, alpha: float) -> Tensor:
    """``(1 - alpha) * hard + alpha * soft``; the hard loss alone without a teacher or at alpha 0."""
    if teacher_logits is None or alpha == 0:
        return hard
    return (1 - alpha) * hard + alpha * soft_cross_entropy(logits, teacher_logits.detach())


def ramped_alpha(alpha: float, step: int, ramp_steps: float) -> float:
    """Weight at a step: linear from 0 over ``ramp_steps`` (official: those of the first epoch), then constant.

    A short run of a small model wants a longer ramp: a teacher that knows nothing yet teaches that.
    """
    return alpha * min(1.0, step / ramp_steps) if ramp_steps else alpha
