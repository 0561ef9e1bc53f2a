"""Weakly supervised grounding: trained like retrieval, evaluated by Grad-CAM (paper section 5)."""

from __future__ import annotations

from typing import ClassVar

from albef.data.datasets import NO_CROP
from albef.data.image_text import PairDataset
from albef.tasks.alignment import AlignmentTask
from albef.tasks.base import TaskData
from albef.tasks.grounding.evaluate import BOXES_FILE, GroundingSet, evaluate


class Grounding(AlignmentTask):
    """Fine-tuning on pairs of image and expression, without boxes."""

    name: ClassVar[str] = "grounding"
    lists: ClassVar[tuple[str, ...]] = ("grounding_train", "grounding_val", "grounding_boxes")
    selection: ClassVar[str | None] = "accuracy"

    def dataset(self, data: TaskData) -> PairDataset:
        """Return a training set with one row per expression.

        Expressions of one image are positives of each other.
        """
        return PairDataset.of(
            data.lists["grounding_train"], self.config.model, self.config.tasks.grounding.train, NO_CROP
        )

    def validate(self, data: TaskData) -> dict[str, float]:
        """Return accuracies on the validation split."""
        split = GroundingSet.of(data.lists["grounding_val"], data.lists.folder / BOXES_FILE)
        return evaluate(self.model, split, data.encoder, self.config.tasks.grounding).metrics


TASK = Grounding
