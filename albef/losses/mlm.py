"""MLM: token masking and loss, with momentum distillation (paper sections 3.2, 4).

B = texts, L = tokens, M = masked tokens, V = vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.losses.distill import is_active

IGNORE = -100


def mask_tokens(
    input_ids: Tensor, keep: Tensor, mask_id: int, vocab_size: int, probability: float
) -> tuple[Tensor, Tensor]:
    """Mask tokens as BERT does.

    Of the selected tokens 80 % become [MASK], 10 % a random token, and 10 % stay unchanged.

    Args:
        input_ids: ``(B, L)``; not modified.
        keep: Boolean ``(B, L)``, True for tokens that are never selected ([PAD], [CLS], [SEP]).
        mask_id: Id of [MASK].
        vocab_size: Upper bound of random token ids.
        probability: Probability of selecting a token.

    Returns:
        Masked ids ``(B, L)`` and labels ``(B, L)``: the original id of selected tokens, -100 elsewhere.
    """
    device = input_ids.device
    selected = torch.rand(input_ids.shape, device=device).lt(probability) & ~keep
    labels = input_ids.masked_fill(~selected, IGNORE)
    draw = torch.rand(input_ids.shape, device=device)
    random_ids = torch.randint(vocab_size, input_ids.shape, device=device)
    masked = torch.where(selected & (draw < 0.8), torch.full_like(input_ids, mask_id), input_ids)
    return torch.where(selected & (draw >= 0.8) & (draw < 0.9), random_ids, masked), labels


def capacity(tokens: int, probability: float) -> int:
    """Return a number of masked tokens that is practically never exceeded.

    It is 8 standard deviations above the mean, rounded up to a multiple of 64.
    """
    expected, deviation = tokens * probability, math.sqrt(tokens * probability * (1 - probability))
    return min(tokens, math.ceil((expected + 8 * deviation) / 64) * 64)


def masked_places(labels: Tensor, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Return places ``(M,)`` of masked tokens, counted over all texts, and their labels ``(M,)``.

    Args:
        labels: ``(B, L)``, -100 at tokens that are not masked.
        limit: Fixed M: shapes then do not depend on the draw, and nothing waits for the device. Missing rows are the
            first token with label -100; tokens beyond it are left out.
    """
    flat = labels.flatten()
    masked = flat != IGNORE
    if limit is None:
        places = masked.nonzero()[:, 0]
        return places, flat[places]
    slots = masked.cumsum(0) - 1
    slots = torch.where(masked & (slots < limit), slots, limit)
    places = torch.zeros(limit + 1, dtype=torch.long, device=flat.device)
    chosen = torch.full_like(places, IGNORE)
    places.scatter_(0, slots, torch.arange(len(flat), device=flat.device))
    chosen.scatter_(0, slots, flat)
    return places[:limit], chosen[:limit]


def mlm_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, alpha: float | Tensor) -> Tensor:
    """Return the mean loss over the masked tokens.

    The loss is 0 if no token of the batch is masked (the official code divides by zero there).

    Args:
        logits: ``(M, V)``, of the masked tokens only.
        labels: Original ids ``(M,)``; rows of label -100 do not count.
        teacher_logits: ``(M, V)``; None without distillation.
        alpha: Weight of the teacher's distribution in the target.
    """
    masked = labels != IGNORE
    count = masked.sum().clamp(min=1)
    log_p = F.log_softmax(logits.float(), dim=-1)
    loss = -log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    if teacher_logits is not None and is_active(alpha):
        soft = -(log_p * F.softmax(teacher_logits.detach().float(), dim=-1)).sum(dim=-1)
        loss = (1 - alpha) * loss + alpha * soft
    return torch.where(masked, loss, 0.0).sum() / count
