"""Tasks that classify a text about images, under behavioral tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from albef.data.lists import Rows
from albef.tasks.behavior import Case, Scored
from albef.tasks.classification_eval import ClassificationSet, classify


class Classification(Scored):
    """Task that classifies a text about images."""

    labels: ClassVar[Sequence[str]]
    holding: ClassVar[str]

    def read(self, rows: Rows) -> list[Case]:
        """Return all rows."""
        split = ClassificationSet.of(rows)
        columns = zip(split.images, split.names, split.sentences, split.labels.tolist(), strict=True)
        return [Case(0, images, names, text, self.labels[label]) for images, names, text, label in columns]

    def _probabilities(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        images = {id(image): image for case in cases for image in case.images}  # those of several texts once
        place = {key: number for number, key in enumerate(images)}
        rows = [tuple(place[id(image)] for image in case.images) for case in cases]
        texts_of_rows = [case.text for case in cases]
        return classify(self.model, list(images.values()), rows, texts_of_rows, self.encoder, self.config)

    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return the names of the classes."""
        return [self.labels[index] for index in self._probabilities(cases).argmax(axis=1)]

    def support(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        """Return the probability that the text holds."""
        return self._probabilities(cases)[:, list(self.labels).index(self.holding)]

    def holds(self, case: Case) -> bool:
        """Return whether the label says so."""
        return bool(case.truth == self.holding)
