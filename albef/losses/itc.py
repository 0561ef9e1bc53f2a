"""ITC: image-text contrastive loss with momentum distillation (paper sections 3.2, 4).

The keys are the teacher's features of the batch and of the queue.

B = batch, K = queue size, P = projection width. The suffix _m denotes the (momentum) teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.losses.distill import is_active


@dataclass(frozen=True)
class ITCResult:
    """ITC loss and the similarities that hard negatives are sampled by.

    Attributes:
        loss: Scalar.
        image_to_text: In-batch similarities ``(B, B)``, divided by the temperature.
        text_to_image: Likewise, of texts to images.
    """

    loss: Tensor
    image_to_text: Tensor
    text_to_image: Tensor


def similarities(query: Tensor, keys: Tensor, queue: Tensor, temperature: Tensor) -> Tensor:
    """Return the similarities ``(B, B + K)`` of queries to keys and queue.

    They are divided by the temperature. Two matrix products avoid concatenating the keys, which would copy the queue.

    Args:
        query: ``(B, P)``.
        keys: ``(B, P)``.
        queue: ``(K, P)``.
        temperature: Scalar.
    """
    return torch.cat([query @ keys.T, query @ queue.T], dim=1).float() / temperature


def positives(ids: Tensor, queue_ids: Tensor) -> Tensor:
    """Return target distributions ``(B, B + K)``, uniform over keys of the same image.

    Args:
        ids: Image ids ``(B,)`` of the batch.
        queue_ids: Image ids ``(K,)`` of the queue.
    """
    same = ids[:, None] == torch.cat([ids, queue_ids])[None, :]
    return same.float() / same.sum(dim=1, keepdim=True)


def _cross_entropy(logits: Tensor, hard: Tensor | None, soft_logits: Tensor, alpha: float | Tensor) -> Tensor:
    log_p = F.log_softmax(logits, dim=1)
    target = log_p.diagonal() if hard is None else (log_p * hard).sum(dim=1)
    loss = -target.mean()
    if not is_active(alpha):
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
    alpha: float | Tensor,
    ids: Tensor | None = None,
    queue_ids: Tensor | None = None,
) -> ITCResult:
    """Return the mean of the image-to-text and text-to-image contrastive losses.

    Args:
        image_feat: Student features ``(B, P)`` of unit length.
        text_feat: Likewise.
        image_feat_m: Teacher features ``(B, P)`` of unit length.
        text_feat_m: Likewise.
        image_queue: Earlier teacher features ``(K, P)``, without this batch.
        text_queue: Likewise.
        temperature: Scalar.
        alpha: Weight of the teacher's similarity distribution in the target; 0 is plain ITC.
        ids: Image ids ``(B,)``; all texts of an image are then positives (retrieval). By default only its pair is.
        queue_ids: Image ids ``(K,)`` of the queue; required with ``ids``.
    """
    i2t = similarities(image_feat, text_feat_m, text_queue, temperature)
    t2i = similarities(text_feat, image_feat_m, image_queue, temperature)
    with torch.no_grad():
        i2t_m = similarities(image_feat_m, text_feat_m, text_queue, temperature) if is_active(alpha) else i2t
        t2i_m = similarities(text_feat_m, image_feat_m, image_queue, temperature) if is_active(alpha) else t2i
    hard = None if ids is None or queue_ids is None else positives(ids, queue_ids)
    loss = (_cross_entropy(i2t, hard, i2t_m, alpha) + _cross_entropy(t2i, hard, t2i_m, alpha)) / 2
    batch = image_feat.shape[0]
    return ITCResult(loss, i2t[:, :batch].detach(), t2i[:, :batch].detach())
