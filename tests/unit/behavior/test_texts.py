"""Tests of changes of texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from albef.tasks import texts


@pytest.mark.parametrize(
    ("change", "text", "expected"),
    [
        (texts.without_articles, "a dog left of the red apple", "dog left of red apple"),
        (texts.without_articles, "two dogs", None),
        (texts.without_articles, "the", None),
        (texts.reordered, "look at a red apple and two dogs on dots", "look at two dogs and a red apple on dots"),
        (texts.reordered, "a cat a dog and a bus", "a cat a bus and a dog"),
        (texts.reordered, "from left to right a cat and a dog", None),
        (texts.reordered, "a cat between a dog and a bus", None),
        (texts.reordered, "a pair of cats and a dog", None),
        (texts.reordered, "a black and white cat", None),
        (texts.opposite, "from left to right a cat and a dog", "from right to left a cat and a dog"),
        (texts.opposite, "a dog on the left and a cat on the right", "a dog on the right and a cat on the left"),
        (texts.opposite, "a cat on top of a bus", "a cat below a bus"),
        (texts.opposite, "is the cat under the bus", "is the cat over the bus"),
        (texts.opposite, "no cat left of a dog", None),
        (texts.opposite, "a leftover", None),
        (texts.opposite, "the left image shows more things", "the right image shows more things"),
        (texts.recounted, "one dog and two cats", "one dog and three cats"),
        (texts.recounted, "at least two cats", None),
        (texts.recounted, "one cat", None),
        (texts.exchanged_colors, "a red cap and a green book on red dots", "a green cap and a red book on green dots"),
        (texts.exchanged_colors, "a red apple on a red car", None),
        (texts.inverted, "the cat left of the two dogs", "the two dogs right of the cat"),
        (texts.inverted, "look at a cat above a snake on dots", "look at a snake below a cat on dots"),
        (texts.inverted, "the two cats are to the left of the dog", "the dog right of the two cats"),
        (texts.inverted, "what is left of the dog", None),
        (texts.inverted, "from left to right a cat a dog and a bus", None),
        (texts.inverted, "the thing to the right of the bus", "the bus left of the thing"),
        (texts.inverted, "the cat on top of the bus", "the bus below the cat"),
        (texts.inverted, "the cat below the bus", "the bus above the cat"),
        (texts.inverted, "the cat on the left", None),
        (texts.inverted, "the leftmost cat above the bus", None),
    ],
)  # fmt: skip
def test_changes(change: Callable[[str], str | None], text: str, expected: str | None) -> None:
    assert change(text) == expected


@pytest.mark.parametrize("text", ["the dog right of the cat", "the bus above the cat"])
def test_an_inverted_relation_turned_back_is_the_first_one(text: str) -> None:
    inverted = texts.inverted(text)
    assert inverted is not None
    assert texts.inverted(inverted) == text


def test_what_a_text_names() -> None:
    assert texts.names_left_or_right("the leftmost cat")
    assert not texts.names_left_or_right("a cat above a dog")
    assert texts.names_side("a cat above a dog")
    assert texts.names_number("how many cats are there")
    assert not texts.names_number("one cat")  # says little more than an article
    assert texts.names_color("a red apple")
    assert not texts.is_certain("there isnt a cat")
    assert texts.is_certain("an elephant in front of a plant")
    assert texts.exchanged_sides("the left image shows more") == "the right image shows more"
    assert texts.exchanged_sides("both images show a cat") == "both images show a cat"
