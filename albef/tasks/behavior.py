"""Model under test: its cases, its predictions and what counts as right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from albef.data.images import ImageSource
from albef.data.lists import Lists, Rows
from albef.data.text import clean
from albef.inference.boxes import Box
from albef.models.albef import ALBEF
from albef.tasks import registry
from albef.tasks.job import spaced

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

CASES = 100
"""Maximum number of rows of a test list, evenly spaced."""


@dataclass(frozen=True)
class Case:
    """Row of a test list.

    Args:
        row: Place among the cases.
        names: Paths of the images.
        text: Cleaned text.
        truth: Right prediction; None if unknown.
        boxes: Proposals, for grounding.
    """

    row: int
    images: tuple[ImageSource, ...]
    names: tuple[str, ...]
    text: str
    truth: Any
    boxes: tuple[Box, ...] = field(default=(), repr=False)


class Subject(ABC):
    """Model of a task with its cases."""

    task: ClassVar[str]
    asks: ClassVar[str] = ""
    """Kinds of predictions that texts ask for, if `fits` tells."""
    refers: ClassVar[bool] = False
    """Whether a text refers to the first thing that it names."""

    def __init__(self, model: ALBEF, encoder: Encoder, config: Any, lists: Lists) -> None:
        self.model, self.encoder, self.config, self.lists = model, encoder, config, lists
        cases = self.read(lists[str(registry.spec(self.task).test_list)])
        kept = [cases[row] for row in spaced(len(cases), CASES)]
        self.cases = [replace(case, row=row, text=clean(case.text)) for row, case in enumerate(kept)]

    @classmethod
    def answer_words(cls, lists: Lists) -> set[str]:
        """Return the words of the answers that the task chooses from, if it has a list."""
        return set()

    @abstractmethod
    def read(self, rows: Rows) -> list[Case]:
        """Return the cases of a test list."""

    @abstractmethod
    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return the predictions for cases."""

    def right(self, case: Case, prediction: Any) -> bool:
        """Return whether a prediction is right."""
        return bool(prediction == case.truth)

    def same(self, case: Case, first: Any, second: Any) -> bool:
        """Return whether two predictions are the same."""
        return bool(first == second)

    def fits(self, case: Case, prediction: Any) -> bool | None:
        """Return whether a prediction is of the kind that the text asks for.

        None: it can be of any kind.
        """
        return None

    def shown(self, prediction: Any) -> str:
        """Return a prediction as text."""
        return str(prediction)


class Scored(Subject):
    """Model that scores how well a text fits its images."""

    def holds(self, case: Case) -> bool:
        """Return whether the text of a case fits its images."""
        return True

    @abstractmethod
    def support(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        """Return a score for each text, which is higher the better it fits its images."""


class Turned(Subject):
    """Model without such a score, whose prediction must change with the text."""

    turn: ClassVar[tuple[str, str]]
    """Name and content of the test with `turned`."""

    @abstractmethod
    def turned(self, case: Case) -> Case | None:
        """Return a case with another right prediction; None if there is none."""
