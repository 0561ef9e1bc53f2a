"""Answer generation loss of VQA with momentum distillation.

Paper section 5, official ``model_vqa.py``.

A = answers, L = answer tokens, V = vocabulary, M = predicted tokens of all answers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.losses.distill import is_active


def predicted(answer_mask: Tensor) -> Tensor:
    """Return a mask ``(A, L)`` of the tokens whose successor is predicted.

    These are all tokens of an answer except its last.
    """
    return F.pad(answer_mask[:, 1:].bool(), (0, 1))


def answer_loss(
    logits: Tensor,
    answer_ids: Tensor,
    answer_mask: Tensor,
    answer_weight: Tensor,
    questions: int,
    teacher_logits: Tensor | None,
    alpha: float | Tensor,
) -> Tensor:
    """Return the weighted negative log-likelihood of the answers per question.

    The weighted sum over answers is divided by the number of questions.

    Args:
        logits: Next-token logits ``(M, V)`` of the tokens selected by `predicted`.
        answer_ids: ``(A, L)``.
        answer_mask: 0/1 mask ``(A, L)``.
        answer_weight: ``(A,)``.
        questions: Number of questions in the batch.
        teacher_logits: ``(M, V)``; None without distillation.
        alpha: Weight of the teacher's distribution in the target of each token.
    """
    rows = predicted(answer_mask)
    targets = answer_ids[:, 1:][rows[:, :-1]]
    log_p = F.log_softmax(logits.float(), dim=-1)
    loss = -log_p.gather(1, targets[:, None]).squeeze(1)
    if teacher_logits is not None and is_active(alpha):
        soft = -(log_p * F.softmax(teacher_logits.detach().float(), dim=-1)).sum(dim=-1)
        loss = (1 - alpha) * loss + alpha * soft
    answer = torch.arange(len(answer_weight), device=loss.device)[:, None].expand_as(rows)[rows]
    return (loss * answer_weight.float()[answer]).sum() / questions
