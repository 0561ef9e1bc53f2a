"""Text assignment, the pretraining task of NLVR2 (paper section 5).

A text is assigned to the first of two images, to the second, or to neither.

B = image-text pairs in the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST, SECOND, NEITHER = 0, 1, 2
TEMPERATURE = 0.07
"""Temperature of the similarities that other images are sampled by (constant in ``model_pretrain_nlvr.py``)."""


def draw_pairs(image_feat: Tensor) -> tuple[Tensor, Tensor]:
    """Draw two images for each text.

    With probability 1/3 each: the matching image and another one, another one and the matching image, or two others.
    Other images are sampled by similarity to the matching image.

    Args:
        image_feat: Features ``(B, P)`` of unit length.

    Returns:
        Image indices ``(B, 2)`` and labels ``(B,)``: `FIRST`, `SECOND` or `NEITHER`.

    Raises:
        ValueError: If the batch has fewer than three pairs, as a text then has no two other images.
    """
    size, device = image_feat.shape[0], image_feat.device
    if size < 3:
        raise ValueError(f"text_assignment: batch of {size} pairs, expected at least 3; raise batch_size")
    similarity = (image_feat.float() @ image_feat.float().T) / TEMPERATURE
    similarity.fill_diagonal_(-1e9)
    weights = F.softmax(similarity, dim=1)
    # Let NaN features through; the loss check reports them with their step. The clamp keeps every weight positive, as
    # multinomial needs two candidates per row.
    weights = torch.where(weights.isnan(), torch.ones_like(weights), weights).clamp(min=1e-12).fill_diagonal_(0)
    others = torch.multinomial(weights, 2)
    matching = torch.arange(size, device=device)
    labels = torch.randint(3, (size,), device=device)
    first = torch.where(labels == FIRST, matching, others[:, 0])
    second = torch.where(labels == SECOND, matching, torch.where(labels == FIRST, others[:, 0], others[:, 1]))
    return torch.stack([first, second], dim=1), labels
