"""Text assignment: pretraining of two-image fusion for NLVR2 (paper section 5).

B = pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from albef.config import Config
from albef.data.datasets import PRETRAIN_CROP
from albef.data.image_text import PairDataset
from albef.losses.assign import draw_pairs
from albef.losses.classify import classification_loss
from albef.tasks.base import Batch, Task, TaskData

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


class TextAssignment(Task):
    """Prediction of the image that a caption describes.

    The classes are the first image, the second image and neither.

    There is no teacher, and the image projection stays frozen.
    """

    name: ClassVar[str] = "text_assignment"
    lists: ClassVar[tuple[str, ...]] = ("text_assignment", "pretrain")

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.model.student.vision_proj.requires_grad_(False)

    def dataset(self, data: TaskData) -> PairDataset:
        """Return the training set of pretraining pairs.

        These are the list ``text_assignment`` if there is one: the paper's model of 14 million images uses 4 million.
        """
        name = next((name for name in self.lists if name in data.lists), "pretrain")
        return PairDataset.of(data.lists[name], self.config.model, self.config.text_assignment, PRETRAIN_CROP)

    def forward(
        self, batch: Batch, alpha: float | Tensor, pairs: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return loss and accuracy of a step.

        Args:
            alpha: Unused, as there is no teacher.
            pairs: Image rows ``(B, 2)`` and labels ``(B,)``; drawn if None.
        """
        student = self.model.student
        image_embeds = student.vision(batch["image"])
        if pairs is None:
            with torch.no_grad():
                feat = torch.nn.functional.normalize(student.vision_proj(image_embeds[:, 0]), dim=-1)
                pairs = draw_pairs(feat)
        rows, labels = pairs
        fused = student.fusion(
            student.text(batch["input_ids"], batch["attention_mask"]),
            batch["attention_mask"],
            student.fusion.keys_values(image_embeds),
            image_rows=rows,
            cls_only=True,
        )
        logits = student.cls_head(fused[:, 0])
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        return {"ta_loss": classification_loss(logits, labels, None, 0.0), "accuracy": accuracy}


TASK = TextAssignment
