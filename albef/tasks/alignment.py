"""ITC + ITM step of pretraining, retrieval and grounding (paper section 3.2).

B = pairs of a batch, L = text tokens, N = image tokens, W = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from albef import distributed
from albef.config import AlignTrainConfig
from albef.losses.itc import Keys, itc_loss
from albef.losses.itm import draw_negatives, itm_loss
from albef.models.albef import ALBEF, Encoders
from albef.models.attention import ImageRows
from albef.tasks.base import Batch, Task


@dataclass(frozen=True)
class MaskedTexts:
    """Texts with masked words, for MLM in the same pass.

    Args:
        ids: ``(B, L)``.
        places: Places ``(M,)`` of the masked words, counted over all texts.
        distill: Also compute the teacher's states.
    """

    ids: Tensor
    places: Tensor
    distill: bool


@dataclass(frozen=True)
class Aligned:
    """Losses of `align`, and fused states ``(M, W)`` of masked words, by student and teacher."""

    losses: dict[str, Tensor]
    words: Tensor | None = None
    words_m: Tensor | None = None


def align(
    model: ALBEF,
    batch: Batch,
    alpha: float | Tensor,
    ids: Tensor | None = None,
    negatives: tuple[Tensor, Tensor] | None = None,
    contrast: bool = True,
    hard: bool = True,
    masked: MaskedTexts | None = None,
    gather: bool = False,
) -> Aligned:
    """Compute ITC and ITM losses; update teacher and queue.

    ITC contrasts the batch with the queue, ITM uses hard negatives by ITC similarity. Each rank contrasts its own batch
    and draws negatives from it; features of all ranks enter the queue, as in the official code. All ranks need the same
    number of parts.

    Args:
        alpha: Weight of momentum distillation in ITC.
        ids: Image ids ``(B,)``. Texts of the same image are positives of each other and never negatives. By default
            each pair is its only positive, as in the official pretraining.
        negatives: Indices ``(B,)`` of each text's negative image and of each image's negative text; drawn if None.
        contrast: Whether to return the ITC loss.
        hard: Whether to draw negatives by ITC similarity rather than uniformly.
        masked: Masked texts to encode and to fuse along.
        gather: Whether ITC also contrasts the batches of the other ranks.
    """
    student, queue, mask = model.student, model.queue, batch["attention_mask"]
    size = len(mask)
    image_embeds, image_feat = student.encode_image(batch["image"])
    text_states = _encode_texts(student, batch, masked)
    text_embeds = text_states[:size]
    text_feat = student.text_features(text_embeds)
    with torch.no_grad():
        model.update_teacher()
        image_embeds_m, image_feat_m = model.teacher.encode_image(batch["image"])
        distilled = masked if masked is not None and masked.distill else None
        text_states_m = _encode_texts(model.teacher, batch, distilled)
        text_feat_m = model.teacher.text_features(text_states_m[:size])
        words_m = None
        if distilled is not None:
            fusion_m = model.teacher.fusion
            packed_m = fusion_m.packed_keys_values(image_embeds_m)
            words_m = fusion_m.fuse(text_states_m[size:], mask, packed_m, None, distilled.places)[1]
    with torch.autocast(image_feat.device.type, enabled=False):
        image_feat, text_feat = image_feat.float(), text_feat.float()
        image_feat_m, text_feat_m = image_feat_m.float(), text_feat_m.float()
        # Clone, because the backward pass needs the queue as it was before this batch is enqueued.
        image_queue, text_queue = queue.image.clone(), queue.text.clone()
        features = (image_feat_m, text_feat_m, *([] if ids is None else [ids]))
        keys = None
        if gather and distributed.world_size() > 1:
            counts = [rows[model.part[0]] for rows in model.rows] or [size] * distributed.world_size()
            features = distributed.gather_rows(*features, counts=counts)
            first = sum(counts[: distributed.rank()])
            keys = Keys(features[0], features[1], None if ids is None else features[2], first)
        itc = model.region(itc_loss)(
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
            keys,
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
    rows_of_step = model.collect(*features)
    if rows_of_step is not None:
        if keys is None:
            rows_of_step = distributed.gather_rows(*rows_of_step, counts=[sum(rows) for rows in model.rows])
        queue.enqueue(*rows_of_step)

    # One pass over (image, text), (negative image, text), (image, negative text) and masked texts.
    rows = torch.arange(size, device=image_index.device)
    negative = text_embeds.index_select(0, text_index)
    words = None if masked is None else masked.places
    cls, word_states = student.fusion.fuse(
        torch.cat([text_embeds, text_embeds, negative, *([] if masked is None else [text_states[size:]])]),
        torch.cat([mask, mask, mask[text_index], *([] if masked is None else [mask])]),
        student.fusion.packed_keys_values(image_embeds),
        ImageRows.of(torch.cat([rows, image_index, rows]), size),
        words,
    )
    logits = model.itm_logits(cls)
    itm = itm_loss(logits[:size], logits[size:], valid)
    losses = {"itc_loss": itc.loss, "itm_loss": itm} if contrast else {"itm_loss": itm}
    return Aligned(losses, word_states, words_m)


def _encode_texts(encoders: Encoders, batch: Batch, masked: MaskedTexts | None) -> Tensor:
    """Return states ``(B, L, W)`` of texts, with masked texts ``(2B, L, W)``."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if masked is None:
        return cast(Tensor, encoders.text(ids, mask))
    return cast(Tensor, encoders.text(torch.cat([ids, masked.ids]), torch.cat([mask, mask])))


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

    def forward(
        self, batch: Batch, alpha: float | Tensor, negatives: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of a step; ``negatives`` as in `align`."""
        train = self.train_config(self.config)
        assert isinstance(train, AlignTrainConfig)
        if not self.model.config.official_quirks:
            self.model.clamp_temperature()  # the official fine-tuning does not clamp it
        return align(self.model, batch, alpha, batch["image_id"], negatives, gather=train.gather_negatives).losses

    @classmethod
    def search_space(cls) -> dict[str, tuple[str, float, float]]:
        """Return the search space common to all tasks, and the temperature."""
        return {**super().search_space(), "temperature": ("loguniform", 0.02, 0.3)}
