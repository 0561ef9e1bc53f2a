"""Pretraining: ITC + ITM + MLM with distillation (paper sections 3.2, 4).

B = pairs, L = text tokens, W = width, V = vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from albef.config import Config
from albef.data.datasets import PRETRAIN_CROP
from albef.data.image_text import PairDataset
from albef.losses.mlm import IGNORE, mask_tokens, mlm_loss
from albef.models.albef import Encoders
from albef.models.bert import KeysValues
from albef.tasks.alignment import align
from albef.tasks.base import Batch, Task, TaskData

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


class Pretrain(Task):
    """Vision-language pretraining on image-caption pairs."""

    name: ClassVar[str] = "pretrain"
    lists: ClassVar[tuple[str, ...]] = ("pretrain",)

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.mask_id = encoder.mask
        self.keep_ids = sorted({encoder.pad, encoder.cls, encoder.sep})

    def dataset(self, data: TaskData) -> PairDataset:
        """Return the training set of image-caption pairs.

        Each epoch draws one of an image's captions.
        """
        return PairDataset.from_list(
            data.lists / "pretrain.json", data.images, self.config.model, self.config.pretrain, crop_scale=PRETRAIN_CROP
        )

    def forward(
        self,
        batch: Batch,
        alpha: float,
        negatives: tuple[Tensor, Tensor] | None = None,
        masked: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a step.

        Args:
            negatives: As in `align`; drawn if None.
            masked: Masked ids and labels, both ``(B, L)``; drawn if None.
        """
        config = self.config.pretrain
        self.model.clamp_temperature()
        aligned = align(
            self.model,
            batch,
            alpha if config.distill_itc else 0.0,
            negatives=negatives,
            contrast=config.itc,
            hard=config.hard_negatives,
        )
        alpha = alpha if config.distill_mlm else 0.0
        if masked is None:
            ids = batch["input_ids"]
            keep = torch.isin(ids, torch.tensor(self.keep_ids, device=ids.device))
            masked = mask_tokens(ids, keep, self.mask_id, self.model.vocab_size, config.mask_probability)
        masked_ids, labels = masked
        rows = labels != IGNORE
        logits = masked_word_logits(
            self.model.student, masked_ids, batch["attention_mask"], rows, aligned.image_keys_values
        )
        logits_m = None
        if alpha:
            with torch.no_grad():
                teacher = self.model.teacher
                keys_values = teacher.fusion.keys_values(aligned.image_embeds_m)
                logits_m = masked_word_logits(teacher, masked_ids, batch["attention_mask"], rows, keys_values)
        with torch.autocast(logits.device.type, enabled=False):
            return {**aligned.losses, "mlm_loss": mlm_loss(logits, labels[rows], logits_m, alpha)}


def masked_word_logits(
    encoders: Encoders, masked_ids: Tensor, attention_mask: Tensor, rows: Tensor, keys_values: list[KeysValues]
) -> Tensor:
    """Return word logits ``(M, V)`` of the M masked tokens.

    Args:
        rows: Boolean mask ``(B, L)`` of these tokens.
    """
    states = encoders.fusion(encoders.text(masked_ids, attention_mask), attention_mask, keys_values)
    return encoders.word_logits(states[rows])


TASK = Pretrain
