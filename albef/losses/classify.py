"""Classification loss with momentum distillation.

Paper section 5, official ``model_ve.py`` and ``model_nlvr.py``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from albef.losses.distill import mix


def classification_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, alpha: float | Tensor) -> Tensor:
    """Return the mean cross-entropy with labels and teacher.

    Args:
        logits: ``(B, classes)``.
        labels: ``(B,)``.
        teacher_logits: ``(B, classes)``; None without distillation.
        alpha: Weight of the teacher's distribution in the target.
    """
    return mix(F.cross_entropy(logits.float(), labels), logits, teacher_logits, alpha)
