"""VQA under behavioral tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from albef.data.lists import Lists, Rows
from albef.tasks import texts
from albef.tasks.behavior import Case, Turned
from albef.tasks.vqa.evaluate import QuestionSet, answer, kind_of, normalize, read_candidates


class Behavior(Turned):
    """Visual question answering: the best answer."""

    task = "vqa"
    turn = ("opposite answer", "another answer with left and right, above and below exchanged, if yes was right")

    asks = "a number for 'how many', yes or no for 'is there'"

    @classmethod
    def answer_words(cls, lists: Lists) -> set[str]:
        """Return the words of the candidate answers."""
        path = lists.folder / "answer_list.json"
        return {word for text in read_candidates(path) for word in text.lower().split()} if path.is_file() else set()

    def read(self, rows: Rows) -> list[Case]:
        """Return all questions; the right answer is the most frequent one."""
        split = QuestionSet.of(rows)
        truths = [normalize(Counter(people).most_common(1)[0][0]) if people else None for people in split.people]
        columns = zip(split.images, split.names, split.questions, truths, strict=True)
        return [Case(0, (image,), (name,), text, truth) for image, name, text, truth in columns]

    def predict(self, cases: Sequence[Case]) -> list[Any]:
        """Return normalized answers."""
        candidates = None
        if self.config.evaluate.mode == "rank":
            candidates = read_candidates(self.lists.folder / "answer_list.json")
        images, rows = [case.images[0] for case in cases], [(row,) for row in range(len(cases))]
        questions = [case.text for case in cases]
        found = answer(self.model, images, rows, questions, candidates, self.encoder, self.config)
        return [normalize(best[0][0]) if best else "" for best in found]

    def turned(self, case: Case) -> Case | None:
        """Exchange sides, where "yes" is right: other answers may stay right, or there may be none."""
        text = texts.opposite(case.text)
        return None if text is None or case.truth != "yes" else replace(case, text=text)

    def fits(self, case: Case, prediction: Any) -> bool | None:
        """Return whether the answer is of the kind that the question asks for."""
        return fits(case.text, prediction)


KINDS = {"how many": "number", "is": "yes/no", "are": "yes/no", "does": "yes/no", "do": "yes/no", "can": "yes/no"}
"""Kinds of answers by the first words of questions."""


def fits(question: str, prediction: str) -> bool | None:
    """Return whether an answer is of the kind that a question asks for.

    The result is None if that can be any.
    """
    expected = next((kind for start, kind in KINDS.items() if question.startswith(f"{start} ")), None)
    if expected is None or (expected == "yes/no" and " or " in question):
        return None
    return bool(prediction) and kind_of([prediction]) == expected
