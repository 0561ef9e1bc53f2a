"""Image-text retrieval: ITC with shared image ids + ITM (paper section 5); ranks by ITM what ITC shortlists."""

from __future__ import annotations

from typing import ClassVar

from albef.data.image_text import PairDataset
from albef.tasks.alignment import AlignmentTask
from albef.tasks.base import TaskData
from albef.tasks.retrieval.evaluate import RetrievalSet, evaluate


class Retrieval(AlignmentTask):
    """Fine-tuning for retrieval, both ways."""

    name: ClassVar[str] = "retrieval"
    lists: ClassVar[tuple[str, ...]] = ("retrieval_train", "retrieval_val")
    selection: ClassVar[str | None] = "r_mean"

    def dataset(self, data: TaskData) -> PairDataset:
        """One row per caption, the image's id shared by its captions."""
        return PairDataset.from_list(
            data.lists / "retrieval_train.json", data.images, self.config.model, self.config.tasks.retrieval.train
        )

    def validate(self, data: TaskData) -> dict[str, float]:
        """Recalls on the validation split after re-ranking, and ITC's own under ``itc_*``."""
        split = RetrievalSet.read(data.lists / "retrieval_val.json", data.images)
        return evaluate(self.model, split, data.encoder, self.config.tasks.retrieval).metrics


TASK = Retrieval
