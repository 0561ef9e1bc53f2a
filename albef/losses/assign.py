"""Text assignment: which of two pictures a text belongs to, or neither (paper section 5, NLVR2).

B = pairs of the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST, SECOND, NEITHER = 0, 1, 2
TEMPERATURE = 0.07
"""Of the similarities that other pictures are drawn by; constant in the official ``model_pretrain_nlvr.py``."""


def draw_pairs(image_feat: Tensor) -> tuple[Tensor, Tensor]:
    """Draw two pictures for each text: its own and another in either order, or two others, a third of the time each.

    Others are drawn by similarity to the text's own picture.

    Args:
        image_feat: Unit features ``(B, P)``.

    Returns:
        Picture rows ``(B, 2)`` and labels ``(B,)``.

    Raises:
        ValueError: If the batch has less than three pairs: a text then has no two other pictures.
    """
    size, device = image_feat.shape[0], image_feat.device
    if size < 3:
        raise ValueError("text assignment needs a batch of at least 3 pairs; raise batch_size")
    similarity = (image_feat.float() @ image_feat.float().T) / TEMPERATURE
    similarity.fill_diagonal_(-1e9)
    weights = F.softmax(similarity, dim=1)
    # As in the draw of ITM: what is no number must not fail here; and no weight may vanish, two others are drawn.
    weights = torch.where(weights.isnan(), torch.ones_like(weights), weights).clamp(min=1e-12).fill_diagonal_(0)
    others = torch.multinomial(weights, 2)
    own = torch.arange(size, device=device)
    fate = torch.randint(3, (size,), device=device)
    first = torch.where(fate == FIRST, own, others[:, 0])
    second = torch.where(fate == SECOND, own, torch.where(fate == FIRST, others[:, 0], others[:, 1]))
    return torch.stack([first, second], dim=1), fate
