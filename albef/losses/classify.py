"""Classification loss with momentum distillation.

Paper section 5, official ``model_ve.py`` and ``model_nlvr.py``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from albef.losses.distill import is_active


def classification_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, alpha: float | Tensor) -> Tensor:
    """Return the mean cross-entropy with labels and teacher.

    Args:
        logits: ``(B, classes)``.
        labels: ``(B,)``.
        teacher_logits: ``(B, classes)``; None without distillation.
        alpha: Weight of the teacher's distribution in the target.
    """
    hard = F.cross_entropy(logits.float(), labels)
    if teacher_logits is None or not is_active(alpha):
        return hard
    targets = F.softmax(teacher_logits.detach().float(), dim=-1)
    soft = -(F.log_softmax(logits.float(), dim=-1) * targets).sum() / max(logits.shape[0], 1)
    return (1 - alpha) * hard + alpha * soft
