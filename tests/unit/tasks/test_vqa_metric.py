"""Tests of the VQA accuracy."""

from __future__ import annotations

import pytest

from albef.tasks.vqa.evaluate import normalize, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Dog", "dog"),
        ("an apple on a table", "apple on table"),
        ("two", "2"),
        ("Ten", "10"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("black/white", "black white"),
        ("what ?", "what"),
        ("dont", "don't"),
        ("wont", "won't"),
        ("don't", "don't"),
        ("theyre", "they're"),
        ("its", "its"),
        ("t-shirt", "t shirt"),
        ("", ""),
    ],
)
def test_normalization(answer: str, expected: str) -> None:
    assert normalize(answer) == expected


@pytest.mark.parametrize(("agree", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)])
def test_leaving_one_person_out(agree: int, expected: float) -> None:
    """Accuracy is the mean over all sets of nine of ten people."""
    people = ["red"] * agree + [f"other {n}" for n in range(10 - agree)]
    assert vqa_accuracy("red", people) == pytest.approx(expected)


def test_answers_are_normalized_where_people_differ() -> None:
    people = ["two", "2", "The two", "2.", "three", "4", "5", "6", "7", "8"]
    assert vqa_accuracy("TWO", people) == pytest.approx(1.0)
    assert vqa_accuracy("3", people) == pytest.approx(0.3)


def test_answers_are_compared_as_they_are_where_all_people_agree() -> None:
    """The official code normalizes neither side then."""
    assert vqa_accuracy("the dog", ["the dog"] * 10) == 1.0
    assert vqa_accuracy("dog", ["the dog"] * 10) == 0.0
    assert vqa_accuracy(" the\ndog ", ["the dog"] * 10) == 1.0
