"""Tests of the suite with models whose behavior is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from albef.behavior import suite
from albef.tasks.behavior import Case, Scored, Subject
from albef.tasks.vqa.behavior import Behavior as Vqa
from albef.tasks.vqa.behavior import fits

KINDS = {"dog": ["cat"], "cat": ["dog"], "red": ["blue"]}


def case(row: int, text: str, truth: Any = "yes") -> Case:
    """A case with an image that is dark on the left."""
    image = Image.new("RGB", (8, 8), (200, 200, 200))
    image.paste((50, 50, 50), (0, 0, 4, 8))
    return Case(row, (image,), (f"{row}.png",), text, truth)


class Reader(Scored):
    """Model that answers by a rule from the text and the brightness of the left half."""

    task = "retrieval"

    def __init__(self, cases: list[Case], rule: Any, score: Any = len) -> None:
        self.cases, self.rule, self.score = cases, rule, score

    def read(self, rows: Any) -> list[Case]:
        return []

    def predict(self, cases: Sequence[Case]) -> list[Any]:
        return [self.rule(c.text, float(np.asarray(c.images[0])[:, :4].mean())) for c in cases]

    def support(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        return np.array([self.score(c.text) for c in cases], dtype=np.float32)


def results(subject: Subject) -> dict[str, suite.Result]:
    found, _ = suite.run(subject, KINDS)
    return {result.test: result for result in found}


CASES = [
    case(0, "a dog left of a cat", "dog"),
    case(1, "two cats and a red dog", "dog"),
    case(2, "a red dog and a blue cat", "cat"),
]


def test_a_model_that_reads_the_first_thing_fails_where_order_changes() -> None:
    found = results(Reader(CASES, lambda text, light: "dog" if text.split()[-1] == "dog" else "cat"))
    assert (found["order"].cases, found["order"].passed) == (3, 0)
    assert (found["articles"].cases, found["articles"].passed) == (3, 3)
    failure = found["order"].failure
    assert failure is not None
    for part in ("0.png", CASES[0].text, '"a cat right of a dog"', "cat, then dog"):
        assert part in failure


@pytest.mark.parametrize(("limit", "brightness", "mirror"), [(47, 0, 2), (100, 3, 0), (300, 3, 2)])
def test_images_become_darker_and_are_mirrored(limit: float, brightness: int, mirror: int) -> None:
    found = results(Reader(CASES, lambda text, light: light < limit))
    assert (found["brightness"].cases, found["brightness"].passed) == (3, brightness)
    assert (found["mirror"].cases, found["mirror"].passed) == (2, mirror)  # the first text names a side


def test_right_outputs_are_counted_by_what_texts_are_about() -> None:
    found = results(Reader(CASES, lambda text, light: "dog"))
    assert {name: (found[name].cases, found[name].passed) for name in ("sides", "numbers", "colors", "others")} == {
        "sides": (1, 1),
        "numbers": (1, 1),
        "colors": (2, 1),
        "others": (0, 0),
    }
    assert found["others"].rate is None
    assert found["colors"].rate == 0.5
    assert found["colors"].error == pytest.approx(np.sqrt(0.125))


def test_wrong_texts_must_fit_worse() -> None:
    scores = {text.text: 1.0 for text in CASES} | {"a cat left of a cat": 2.0}
    subject = Reader(CASES, lambda text, light: "", lambda text: scores.get(text, 0.0))
    found = results(subject)
    assert (found["opposite"].cases, found["opposite"].passed) == (1, 1)
    assert (found["one more"].cases, found["one more"].passed) == (1, 1)
    assert (found["other colors"].cases, found["other colors"].passed) == (1, 1)
    # dog -> cat and cat -> dog, where the other one is not in the text already; red -> blue likewise
    assert (found["other word"].cases, found["other word"].passed) == (2, 2)
    equal = results(Reader(CASES, lambda text, light: "", lambda text: 0.0))
    assert {equal[name].passed for name in (*suite.DIRECTION, "other word")} == {0}


def test_words_are_counted_where_there_are_enough_comparisons() -> None:
    cases = [case(row, "a red dog") for row in range(suite._MIN_PAIRS)]
    _, words = suite.run(Reader(cases, lambda text, light: "", lambda text: float("red" in text)), KINDS)
    assert words == {"dog": (5, 0), "red": (5, 5)}
    _, words = suite.run(Reader(cases[:-1], lambda text, light: "", lambda text: 0.0), KINDS)
    assert words == {}


def test_only_true_questions_have_an_opposite() -> None:
    vqa = Vqa.__new__(Vqa)
    text = "is the cat left of the dog"
    turned = vqa.turned(case(0, text, "yes"))
    assert turned is not None
    assert turned.text == "is the cat right of the dog"
    assert vqa.turned(case(0, text, "no")) is None
    assert vqa.turned(case(0, "what is left of the dog", "cat")) is None


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("how many cats are there", "2", True),
        ("how many cats are there", "yes", False),
        ("is there a cat", "no", True),
        ("is there a cat", "cat", False),
        ("is it a cat or a dog", "cat", None),
        ("what is left of the cat", "dog", None),
        ("are there cats", "", False),
    ],
)
def test_answers_fit_the_question(question: str, answer: str, expected: bool | None) -> None:
    assert fits(question, answer) is expected
