"""MLM: token masking and loss, with momentum distillation (paper sections 3.2, 4).

B = texts, L = tokens, M = masked tokens, V = vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.losses.distill import mix

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


def mlm_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, alpha: float) -> Tensor:
    """Return the mean loss over the masked tokens.

    The loss is 0 if no token of the batch is masked (the official code divides by zero there).

    Args:
        logits: ``(M, V)``, of the masked tokens only.
        labels: Original ids ``(M,)``.
        teacher_logits: ``(M, V)``; None without distillation.
        alpha: Weight of the teacher's distribution in the target.
    """
    count = max(labels.shape[0], 1)
    hard = F.cross_entropy(logits.float(), labels, reduction="sum") / count
    return mix(hard, logits, teacher_logits, alpha)
