"""MLM: masking of words and the loss on the masked ones, with momentum distillation (paper section 3.2, 4).

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
    """Choose tokens to predict and hide them as BERT does: 80 % [MASK], 10 % a random word, 10 % unchanged.

    Args:
        input_ids: ``(B, L)``; left as it is.
        keep: Boolean ``(B, L)``, True where a token is never chosen ([PAD], [CLS], [SEP]).
        probability: Of a token to be chosen.

    Returns:
        Masked ids ``(B, L)`` and labels ``(B, L)``: the original id where chosen, -100 elsewhere.
    """
    device = input_ids.device
    chosen = torch.rand(input_ids.shape, device=device).lt(probability) & ~keep
    labels = input_ids.masked_fill(~chosen, IGNORE)
    fate = torch.rand(input_ids.shape, device=device)
    words = torch.randint(vocab_size, input_ids.shape, device=device)
    masked = torch.where(chosen & (fate < 0.8), torch.full_like(input_ids, mask_id), input_ids)
    return torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, masked), labels


def mlm_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, alpha: float) -> Tensor:
    """Mean loss over the masked tokens; 0 where a batch has none (the official code divides by zero there).

    Args:
        logits: ``(M, V)`` of the masked tokens alone.
        labels: ``(M,)`` original ids.
        teacher_logits: ``(M, V)``; None without distillation.
        alpha: Weight of the teacher's word distribution in the target.
    """
    count = max(labels.shape[0], 1)
    hard = F.cross_entropy(logits.float(), labels, reduction="sum") / count
    return mix(hard, logits, teacher_logits, alpha)
