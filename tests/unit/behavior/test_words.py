"""Tests of words of a kind."""

from __future__ import annotations

from itertools import permutations

from albef.behavior.words import content_words, kinds

ANIMALS = ("dog", "cat", "tiger")
COLORS = ("red", "blue")
TEXTS = [
    f"A {size} {first} left of a {second}, on a {color} background"
    for first, second in permutations(ANIMALS, 2)
    for color in COLORS
    for size in ("small", "little")
] + [f"a puppy on a {color} background" for color in COLORS]
TEXTS += [f"{verb} a {color} cap" for color in COLORS for verb in ("take", "see")]


def test_words_of_a_kind_stand_in_the_same_places() -> None:
    found = kinds([*TEXTS, "a red dog on a blue background"])
    assert set(found["dog"]) == {"cat", "tiger"}
    assert found["red"] == ["blue"]
    assert "on" not in found


def test_words_that_never_meet_may_be_synonyms() -> None:
    found = kinds(TEXTS)
    assert "small" not in found
    assert all("puppy" not in others for others in found.values())


def test_only_known_words_count() -> None:
    assert set(kinds(TEXTS, {"dog", "cat"})) == {"dog", "cat"}


def test_the_order_of_texts_does_not_matter() -> None:
    assert kinds(TEXTS) == kinds(reversed(TEXTS))


def test_content_words() -> None:
    assert content_words("a dog left of a red dog") == ["dog", "left", "red"]
