"""Pretraining: ITC + ITM + MLM with distillation (paper sections 3.2, 4).

B = pairs, L = text tokens, W = width, V = vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from albef.config import Config, ConfigError
from albef.data.datasets import PRETRAIN_CROP
from albef.data.image_text import PairDataset
from albef.data.stream import spec_of
from albef.data.stream_loader import StreamSet
from albef.losses.distill import is_active
from albef.losses.mlm import capacity, mask_tokens, masked_places, mlm_loss
from albef.tasks.alignment import MaskedTexts, align
from albef.tasks.base import Batch, Task, TaskData

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


class Pretrain(Task):
    """Vision-language pretraining on image-caption pairs."""

    name: ClassVar[str] = "pretrain"
    lists: ClassVar[tuple[str, ...]] = ("pretrain",)
    fixed_shapes: ClassVar[bool] = True
    keep_ids: Tensor

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.mask_id = encoder.mask
        self.register_buffer(
            "keep_ids", torch.tensor(sorted({encoder.pad, encoder.cls, encoder.sep})), persistent=False
        )

    def dataset(self, data: TaskData) -> PairDataset:
        """Return the training set of image-caption pairs, from a stream if the data set has one.

        Each epoch draws one of an image's captions.

        Raises:
            ConfigError: If parameters do not apply to a stream.
        """
        config = self.config.pretrain
        stream = spec_of(data.lists.images.folder)
        if stream is not None:
            if config.captions != "random":
                raise ConfigError("pretrain.captions: a stream draws captions at random; remove the key")
            if config.mixing_temperature is not None and len(stream.by_source()) == 1:
                raise ConfigError(
                    "pretrain.mixing_temperature: the stream has one source; name several with their pairs in "
                    "prepare.stream.sources, or remove the key"
                )
            return StreamSet(stream, data.lists.images, self.config.model, self.config.pretrain, PRETRAIN_CROP)
        return PairDataset.of(data.lists["pretrain"], self.config.model, self.config.pretrain, PRETRAIN_CROP)

    def forward(
        self,
        batch: Batch,
        alpha: float | Tensor,
        negatives: tuple[Tensor, Tensor] | None = None,
        masked: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a step.

        Args:
            negatives: As in `align`; drawn if None.
            masked: Masked ids and labels, both ``(B, L)``; drawn if None.
        """
        config, model, ids = self.config.pretrain, self.model, batch["input_ids"]
        model.clamp_temperature()
        limit = None
        if masked is None:
            keep = (ids[..., None] == self.keep_ids).any(dim=-1)
            masked = mask_tokens(ids, keep, self.mask_id, model.vocab_size, config.mask_probability)
            limit = capacity(ids.numel(), config.mask_probability) if ids.is_cuda or model.regions else None
        masked_ids, labels = masked
        places, labels = masked_places(labels, limit)
        alpha_mlm = alpha if config.distill_mlm else 0.0
        aligned = align(
            model,
            batch,
            alpha if config.distill_itc else 0.0,
            negatives=negatives,
            contrast=config.itc,
            hard=config.hard_negatives,
            masked=MaskedTexts(masked_ids, places, distill=is_active(alpha_mlm)),
            gather=config.gather_negatives,
        )
        assert aligned.words is not None
        logits, logits_m = model.student.word_logits(aligned.words), None
        if aligned.words_m is not None:
            with torch.no_grad():
                logits_m = model.teacher.word_logits(aligned.words_m)
        with torch.autocast(logits.device.type, enabled=False):
            loss = model.region(mlm_loss)(logits, labels, logits_m, alpha_mlm)
        return {**aligned.losses, "mlm_loss": loss}


TASK = Pretrain
