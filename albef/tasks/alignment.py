"""The ITC + ITM step that pretraining, retrieval and grounding share (paper section 3.2).

B = pairs of a batch, L = text tokens, N = image tokens, W = width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from albef import distributed
from albef.config import AlignTrainConfig, Config
from albef.losses.itc import itc_loss
from albef.losses.itm import draw_negatives, itm_loss
from albef.models.albef import ALBEF
from albef.models.bert import KeysValues
from albef.tasks.base import Batch, Task


@dataclass(frozen=True)
class Aligned:
    """Losses of `align` and the states that further objectives go on from."""

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
    """ITC against the queue, then ITM with hard negatives found by ITC; moves the teacher and fills the queue.

    Of several workers each contrasts its own batch, with negatives from there; into the queue goes what all have seen
    (as in the official code).

    Args:
        alpha: Weight of momentum distillation in ITC.
        ids: Image ids ``(B,)``: texts of one image are then positives of each other and never negatives. By default
            only the pair itself is a positive, as in the official pretraining.
        negatives: Index ``(B,)`` of each text's negative image and of each image's negative text, instead of a draw.
        contrast: Whether ITC counts.
        hard: Whether negatives are drawn by similarity rather than evenly.
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
        # Copies: the backward pass needs the queue as it was before this batch enters it.
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
    own = torch.arange(len(image_index), device=image_index.device)
    keys_values = student.fusion.keys_values(image_embeds)
    texts = torch.cat([own, own, text_index])
    fused = student.fusion(
        text_embeds[texts],
        batch["attention_mask"][texts],
        keys_values,
        image_rows=torch.cat([own, image_index, own]),
        cls_only=True,
    )
    logits = model.itm_head(fused[:, 0])
    itm = itm_loss(logits[: len(own)], logits[len(own) :], valid)
    losses = {"itc_loss": itc.loss, "itm_loss": itm} if contrast else {"itm_loss": itm}
    return Aligned(losses, keys_values, image_embeds_m)


class AlignmentTask(Task):
    """Fine-tuning as retrieval is trained: ITC with shared image ids + ITM."""

    @classmethod
    @abstractmethod
    def train_config(cls, config: Config) -> AlignTrainConfig:
        """This task's training parameters."""

    def begin(self) -> None:
        """Set the temperature, where the parameters have one."""
        temperature = self.train_config(self.config).temperature
        if temperature is not None:
            with torch.no_grad():
                self.model.temperature.fill_(temperature)

    def forward(self, batch: Batch, alpha: float, negatives: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of a step; ``negatives`` as in `align`."""
        return align_images(self.model, batch, alpha, negatives)

    @classmethod
    def search_space(cls) -> dict[str, tuple[str, float, float]]:
        """That of every task, and the temperature."""
        return {**super().search_space(), "temperature": ("loguniform", 0.02, 0.3)}


def align_images(
    model: ALBEF, batch: Batch, alpha: float, negatives: tuple[Tensor, Tensor] | None = None
) -> dict[str, Tensor]:
    """Losses of `align` where texts share images, told by ``image_id (B,)``: retrieval and grounding (section 5)."""
    if not model.config.official_quirks:
        model.clamp_temperature()  # the official fine-tuning leaves it free
    return align(model, batch, alpha, ids=batch["image_id"], negatives=negatives).losses
