"""ITM: image-text matching with in-batch hard negatives (paper section 3.2).

B = batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def draw_negatives(similarity: Tensor, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sample one hard negative per row, by similarity.

    Positives are masked before the softmax. The distribution over the negatives is that of the official code, and a row
    only sums to zero if it has no negative at all.

    Args:
        similarity: ``(B, B)``, divided by the temperature.
        same: Boolean ``(B, B)``, True where row and column are the same item; by default the diagonal.

    Returns:
        Column indices ``(B,)`` and a boolean ``(B,)``, False where the row has no negative (its index is undefined).

    Raises:
        ValueError: If the batch has a single row, which has no negative.
    """
    size = similarity.shape[0]
    if size < 2:
        raise ValueError(f"ITM: a batch of {size} has no negatives, expected at least 2 pairs; raise batch_size")
    if same is None:
        same = torch.eye(size, dtype=torch.bool, device=similarity.device)
    valid = ~same.all(dim=1)
    weights = F.softmax(similarity.float().masked_fill(same, -1e9), dim=1)
    # The draw of torch.multinomial without its check of the weights, which waits for the device. NaN features pass; the
    # training loop skips their step.
    return (weights / torch.empty_like(weights).exponential_()).argmax(dim=1), valid


def itm_loss(positive: Tensor, negative: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of the ITM head over all pairs.

    Args:
        positive: Logits ``(B, 2)`` of matched pairs; column 1 is "match".
        negative: Logits ``(M, 2)`` of mismatched pairs.
        valid: Boolean ``(M,)``; rows that are False are ignored.
    """
    ones = torch.ones(positive.shape[0], dtype=torch.long, device=positive.device)
    zeros = torch.zeros(negative.shape[0], dtype=torch.long, device=positive.device)
    if valid is not None:
        zeros = zeros.masked_fill(~valid, IGNORE)
    return F.cross_entropy(torch.cat([positive, negative]).float(), torch.cat([ones, zeros]), ignore_index=IGNORE)
