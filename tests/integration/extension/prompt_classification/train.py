"""Training on image-text pairs by ITC + ITM."""

from __future__ import annotations

from albef.data.image_text import PairDataset
from albef.tasks.alignment import AlignmentTask
from albef.tasks.base import TaskData


class PromptClassification(AlignmentTask):
    """Fine-tuning on the captions of retrieval."""

    name = "prompt_classification"
    lists = ("retrieval_train",)

    def dataset(self, data: TaskData) -> PairDataset:
        """Return a training set with one row per caption."""
        return PairDataset.of(data.lists["retrieval_train"], self.config.model, self.train_config(self.config))


TASK = PromptClassification
