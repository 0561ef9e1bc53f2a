"""ITC: image-text contrastive loss with momentum distillation (paper sections 3.2, 4).

The keys are the teacher's features of the batch, or of the batches of all ranks, and of the queue.

B = batch, G = keys beside the queue, K = queue size, P = projection width. The suffix _m denotes the momentum teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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


class Keys(NamedTuple):
    """Teacher features of the batches of all ranks.

    Attributes:
        image: ``(G, P)`` of unit length.
        text: Likewise.
        ids: Image ids ``(G,)``; None if each pair is its only positive.
        first: Row of the first pair of this rank's batch.
    """

    image: Tensor
    text: Tensor
    ids: Tensor | None
    first: int


def similarities(query: Tensor, keys: Tensor, queue: Tensor, temperature: Tensor) -> Tensor:
    """Return the similarities ``(B, G + K)`` of queries to keys and queue.

    They are divided by the temperature. Two matrix products avoid concatenating the keys, which would copy the queue.

    Args:
        query: ``(B, P)``.
        keys: ``(G, P)``.
        queue: ``(K, P)``.
        temperature: Scalar.
    """
    return torch.cat([query @ keys.T, query @ queue.T], dim=1).float() / temperature


def positives(ids: Tensor, key_ids: Tensor) -> Tensor:
    """Return target distributions ``(B, G + K)``, uniform over keys of the same image.

    Args:
        ids: Image ids ``(B,)`` of the batch.
        key_ids: Image ids ``(G + K,)`` of keys and queue.
    """
    same = ids[:, None] == key_ids[None, :]
    return same.float() / same.sum(dim=1, keepdim=True)


def _cross_entropy(
    logits: Tensor, hard: Tensor | None, soft_logits: Tensor, alpha: float | Tensor, first: int
) -> Tensor:
    log_p = F.log_softmax(logits, dim=1)
    target = log_p.diagonal(first) if hard is None else (log_p * hard).sum(dim=1)
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
    gathered: Keys | None = None,
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
        gathered: Keys of all ranks; by default those of this batch.
    """
    keys = gathered or Keys(image_feat_m, text_feat_m, ids, 0)
    i2t = similarities(image_feat, keys.text, text_queue, temperature)
    t2i = similarities(text_feat, keys.image, image_queue, temperature)
    with torch.no_grad():
        i2t_m = similarities(image_feat_m, keys.text, text_queue, temperature) if is_active(alpha) else i2t
        t2i_m = similarities(text_feat_m, keys.image, image_queue, temperature) if is_active(alpha) else t2i
    hard = None
    if ids is not None and keys.ids is not None and queue_ids is not None:
        hard = positives(ids, torch.cat([keys.ids, queue_ids]))
    own = slice(keys.first, keys.first + image_feat.shape[0])
    loss = _cross_entropy(i2t, hard, i2t_m, alpha, keys.first) + _cross_entropy(t2i, hard, t2i_m, alpha, keys.first)
    return ITCResult(loss / 2, i2t[:, own].detach(), t2i[:, own].detach())
