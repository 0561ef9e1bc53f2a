"""Training of image-text retrieval by ITC + ITM (paper section 5)."""

from __future__ import annotations

from typing import ClassVar

from albef.data.image_text import PairDataset
from albef.tasks.alignment import AlignmentTask
from albef.tasks.base import TaskData
from albef.tasks.retrieval.evaluate import RetrievalSet, evaluate


class Retrieval(AlignmentTask):
    """Fine-tuning for retrieval in both directions."""

    name: ClassVar[str] = "retrieval"
    lists: ClassVar[tuple[str, ...]] = ("retrieval_train", "retrieval_val")
    selection: ClassVar[str | None] = "r_mean"

    def dataset(self, data: TaskData) -> PairDataset:
        """Return a training set with one row per caption.

        Captions of one image share its id.
        """
        return PairDataset.of(data.lists["retrieval_train"], self.config.model, self.config.tasks.retrieval.train)

    def validate(self, data: TaskData) -> dict[str, float]:
        """Return recalls on the validation split after and, as ``itc_*``, before re-ranking."""
        split = RetrievalSet.of(data.lists["retrieval_val"])
        return evaluate(self.model, split, data.encoder, self.config.tasks.retrieval).metrics


TASK = Retrieval
