"""ITM: image-text matching with in-batch hard negatives (paper section 3.2).

B = batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def draw_negatives(similarity: Tensor, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw one negative a row, likelier the more similar it is.

    The items that are no negatives are masked before the softmax: the distribution over the others is the official
    code's, and no row sums to zero unless it has no negative at all.

    Args:
        similarity: ``(B, B)``, divided by temperature.
        same: Boolean ``(B, B)``, True where row and column are the same item; by default the diagonal.

    Returns:
        Column index ``(B,)`` and a boolean ``(B,)``, False where the row has no negative (the index is then void).

    Raises:
        ValueError: If the batch has a single row, which can have no negative.
    """
    size = similarity.shape[0]
    if size < 2:
        raise ValueError("ITM needs a batch of at least 2 pairs to find a negative in; raise batch_size")
    if same is None:
        same = torch.eye(size, dtype=torch.bool, device=similarity.device)
    valid = ~same.all(dim=1)
    weights = F.softmax(similarity.float().masked_fill(same, -1e9), dim=1)
    # Features that are no numbers must not fail here, far from their cause: the loss they give tells of them.
    weights = torch.where(weights.isnan(), torch.ones_like(weights), weights)
    return torch.multinomial(weights, 1).squeeze(1), valid


def itm_loss(positive: Tensor, negative: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy of the match head over all pairs.

    Args:
        positive: Logits ``(B, 2)`` of matched pairs; column 1 is "match".
        negative: Logits ``(M, 2)`` of mismatched pairs.
        valid: Boolean ``(M,)``; a False row is left out.
    """
    ones = torch.ones(positive.shape[0], dtype=torch.long, device=positive.device)
    zeros = torch.zeros(negative.shape[0], dtype=torch.long, device=positive.device)
    if valid is not None:
        zeros = zeros.masked_fill(~valid, IGNORE)
    return F.cross_entropy(torch.cat([positive, negative]).float(), torch.cat([ones, zeros]), ignore_index=IGNORE)
