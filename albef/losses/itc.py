"""ITC: image-text contrastive loss against the batch and the queue, with momentum distillation (paper section 3.2, 4).

B = batch, K = queue size, P = projection width. Suffix _m: of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ITCResult:
    """The loss and the in-batch similarities ``(B, B)`` that hard negatives are drawn by (divided by temperature)."""

    loss: Tensor
    image_to_text: Tensor
    text_to_image: Tensor


def similarities(query: Tensor, keys: Tensor, queue: Tensor, temperature: Tensor) -> Tensor:
    """Similarities ``(B, B + K)`` of ``query (B, P)`` to ``keys (B, P)`` then ``queue (K, P)``, over temperature.

    Two products instead of one with the concatenated keys, which would be a copy of the whole queue.
    """
    return torch.cat([query @ keys.T, query @ queue.T], dim=1).float() / temperature


def positives(ids: Tensor, queue_ids: Tensor) -> Tensor:
    """Target distribution ``(B, B + K)``: equal shares for every key of the same image id ``(B,)``."""
    same = ids[:, None] == torch.cat([ids, queue_ids])[None, :]
    return same.float() / same.sum(dim=1, keepdim=True)


def _cross_entropy(logits: Tensor, hard: Tensor | None, soft_logits: Tensor, alpha: float) -> Tensor:
    log_p = F.log_softmax(logits, dim=1)
    target = log_p.diagonal() if hard is None else (log_p * hard).sum(dim=1)
    loss = -target.mean()
    if alpha == 0:
        return loss
    soft = -(log_p * F.softmax(soft_logits, dim=1)).sum(dim=1).mean()
    return alpha * soft + (1 - alpha) * loss


def itc_loss(
    image_feat: Tensor,
    text_feat: Tensor,
    image_feat_m: Tensor,
    text_feat_m: Tensor,
    image_queue: Tensor,
    text_queue: Tensor,
    temperature: Tensor,
    alpha: float,
    ids: Tensor | None = None,
    queue_ids: Tensor | None = None,
) -> ITCResult:
    """Contrast the student's features with the teacher's, both ways.

    Args:
        image_feat: Unit features ``(B, P)``; ``text_feat`` and the teacher's ``_m`` alike.
        image_queue: Earlier teacher features ``(K, P)``, without this batch.
        temperature: Scalar.
        alpha: Weight of the teacher's similarity distribution in the target; 0 is plain ITC.
        ids: Image ids ``(B,)``; texts of one image are then all positives (retrieval). By default only the pair is.
        queue_ids: Image ids ``(K,)`` of the queue, with ``ids``.
    """
    i2t = similarities(image_feat, text_feat_m, text_queue, temperature)
    t2i = similarities(text_feat, image_feat_m, image_queue, temperature)
    with torch.no_grad():
        i2t_m = similarities(image_feat_m, text_feat_m, text_queue, temperature) if alpha else i2t
        t2i_m = similarities(text_feat_m, image_feat_m, image_queue, temperature) if alpha else t2i
    hard = None if ids is None or queue_ids is None else positives(ids, queue_ids)
    loss = (_cross_entropy(i2t, hard, i2t_m, alpha) + _cross_entropy(t2i, hard, t2i_m, alpha)) / 2
    batch = image_feat.shape[0]
    return ITCResult(loss, i2t[:, :batch].detach(), t2i[:, :batch].detach())
