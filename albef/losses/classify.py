"""Classification with momentum distillation (paper section 5, official ``model_ve.py`` and ``model_nlvr.py``)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from albef.losses.distill import mix


def classification_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, alpha: float) -> Tensor:
    """Mean cross-entropy of logits ``(B, classes)`` with labels ``(B,)`` and, at weight ``alpha``, the teacher."""
    return mix(F.cross_entropy(logits.float(), labels), logits, teacher_logits, alpha)
