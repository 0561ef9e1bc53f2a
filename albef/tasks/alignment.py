"""ITC + ITM step of pretraining, retrieval and grounding (paper section 3.2).

B = pairs of a batch, L = text tokens, N = image tokens, W = width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from albef import distributed
from albef.config import AlignTrainConfig
from albef.losses.itc import itc_loss
from albef.losses.itm import draw_negatives, itm_loss
from albef.models.albef import ALBEF
from albef.models.bert import KeysValues
from albef.tasks.base import Batch, Task


@dataclass(frozen=True)
class Aligned:
    """Losses of `align`, and encoder outputs for further objectives."""

    losses: dict[str, Tensor]
    image_keys_values: list[KeysValues]
    image_embeds_m: Tensor


def align(
    model: ALBEF,
    batch: Batch,
    alpha: float,
    ids: Tensor | None = None,
    negatives: tuple[Tensor, Tensor] | None = None,
    contrast: bool = True,
    hard: bool = True,
) -> Aligned:
    """Compute ITC and ITM losses; update teacher and queue.

    ITC contrasts the batch with the queue, ITM uses hard negatives by ITC similarity. Each rank contrasts its own batch
    and draws negatives from it; features of all ranks enter the queue, as in the official code.

    Args:
        alpha: Weight of momentum distillation in ITC.
        ids: Image ids ``(B,)``. Texts of the same image are positives of each other and never negatives. By default
            each pair is its only positive, as in the official pretraining.
        negatives: Indices ``(B,)`` of each text's negative image and of each image's negative text; drawn if None.
        contrast: Whether to return the ITC loss.
        hard: Whether to draw negatives by ITC similarity rather than uniformly.
    """
    student, queue = model.student, model.queue
    image_embeds, image_feat = student.encode_image(batch["image"])
    text_embeds, text_feat = student.encode_text(batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        model.update_teacher()
        image_embeds_m, image_feat_m = model.teacher.encode_image(batch["image"])
        _, text_feat_m = model.teacher.encode_text(batch["input_ids"], batch["attention_mask"])
    with torch.autocast(image_feat.device.type, enabled=False):
        image_feat, text_feat = image_feat.float(), text_feat.float()
        image_feat_m, text_feat_m = image_feat_m.float(), text_feat_m.float()
        # Clone, because the backward pass needs the queue as it was before this batch is enqueued.
        image_queue, text_queue = queue.image.clone(), queue.text.clone()
        itc = itc_loss(
            image_feat,
            text_feat,
            image_feat_m,
            text_feat_m,
            image_queue,
            text_queue,
            model.temperature,
            alpha,
            ids,
            queue.ids,
        )
        same = None if ids is None else ids[:, None] == ids[None, :]
        if negatives is None:
            by_text, by_image = itc.text_to_image, itc.image_to_text
            if not hard:
                by_text, by_image = torch.zeros_like(by_text), torch.zeros_like(by_image)
            image_index, image_valid = draw_negatives(by_text, same)
            text_index, text_valid = draw_negatives(by_image, same)
            valid = torch.cat([image_valid, text_valid])
        else:
            (image_index, text_index), valid = negatives, None
    if ids is None:
        queue.enqueue(*distributed.gather_rows(image_feat_m, text_feat_m))
    else:
        queue.enqueue(*distributed.gather_rows(image_feat_m, text_feat_m, ids))

    # One pass over 3B pairs: (image, text), (negative image, text), (image, negative text).
    rows = torch.arange(len(image_index), device=image_index.device)
    keys_values = student.fusion.keys_values(image_embeds)
    texts = torch.cat([rows, rows, text_index])
    fused = student.fusion(
        text_embeds[texts],
        batch["attention_mask"][texts],
        keys_values,
        image_rows=torch.cat([rows, image_index, rows]),
        cls_only=True,
    )
    logits = model.itm_head(fused[:, 0])
    itm = itm_loss(logits[: len(rows)], logits[len(rows) :], valid)
    losses = {"itc_loss": itc.loss, "itm_loss": itm} if contrast else {"itm_loss": itm}
    return Aligned(losses, keys_values, image_embeds_m)


class AlignmentTask(Task):
    """Fine-tuning with ITM and with ITC by shared image ids."""

    def begin(self) -> None:
        """Set the temperature if the parameters specify one."""
        train = self.train_config(self.config)
        assert isinstance(train, AlignTrainConfig)
        temperature = train.temperature
        if temperature is not None:
            with torch.no_grad():
                self.model.temperature.fill_(temperature)

    def forward(self, batch: Batch, alpha: float, negatives: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the losses of a step; ``negatives`` as in `align`."""
        return align_images(self.model, batch, alpha, negatives)

    @classmethod
    def search_space(cls) -> dict[str, tuple[str, float, float]]:
        """Return the search space common to all tasks, and the temperature."""
        return {**super().search_space(), "temperature": ("loguniform", 0.02, 0.3)}


def align_images(
    model: ALBEF, batch: Batch, alpha: float, negatives: tuple[Tensor, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the losses of `align` with positives by ``image_id (B,)``.

    Used by retrieval and grounding (paper section 5).
    """
    if not model.config.official_quirks:
        model.clamp_temperature()  # the official fine-tuning does not clamp it
    return align(model, batch, alpha, ids=batch["image_id"], negatives=negatives).losses
