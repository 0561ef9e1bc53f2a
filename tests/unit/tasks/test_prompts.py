"""Texts of labels in zero-shot classification."""

from __future__ import annotations

import numpy as np
import pytest

from albef.tasks.classify.prompts import PromptError, class_features, prompts
from tests.errors import refuses


def test_each_label_goes_into_each_template() -> None:
    assert prompts(["cat", "dog"], ["a {}", "{}s"]) == ["a cat", "cats", "a dog", "dogs"]
    assert prompts(["cat"]) == ["cat"]
    assert prompts(["{}"], ["a {}"]) == ["a {}"]


def test_a_template_is_no_format_string() -> None:
    assert prompts(["cat"], ["{0.__class__} {:>9} {}"]) == ["{0.__class__} {:>9} cat"]


@pytest.mark.parametrize(
    ("labels", "templates", "names"),
    [
        ([], ["{}"], ["labels"]),
        ("cat", ["{}"], ["labels", "'cat'"]),
        (["cat"], [], ["templates"]),
        (["cat"], "{}", ["templates"]),
        (["cat", "dog", "cat"], ["{}"], ["labels", "'cat'", 2]),
        (["cat"], ["{}", "a photo"], ["templates", "'a photo'", "{}"]),
        (["cat"], ["{} and {}"], ["templates", "'{} and {}'"]),
        (["cat"], ["{0}"], ["templates", "'{0}'"]),
    ],
)
def test_what_makes_no_texts_is_named(labels: list[str], templates: list[str], names: list[object]) -> None:
    with refuses(PromptError, *names) as caught:
        prompts(labels, templates)
    assert caught.value.field == names[0]


def test_features_of_a_label_are_the_mean_of_its_texts() -> None:
    features = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.6, 0.8]])
    np.testing.assert_allclose(class_features(features, 2), [[0.5**0.5, 0.5**0.5], [0.6, 0.8]])
    np.testing.assert_allclose(class_features(features, 4), features)
