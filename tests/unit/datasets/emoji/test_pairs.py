from __future__ import annotations

import math
import re
from collections import Counter
from random import Random

import pytest

from albef.datasets.emoji.captions import NUMBERS
from albef.datasets.emoji.lexicon import BACKGROUNDS
from albef.datasets.emoji.lists import _STATEMENTS_TRAIN, nlvr
from albef.datasets.emoji.pairs import StatementGenerator
from albef.datasets.emoji.scenes import Scene
from albef.datasets.emoji.world import World
from tests.unit.data.baselines import BagOfWords


def judge(text: str, left: Scene, right: Scene, world: World) -> bool:
    """The truth by the scene records, by other rules than those that wrote the statement."""
    if match := re.fullmatch(r"(?:both images show|there is in each image) an? (.*)", text):
        return match[1] in left.names and match[1] in right.names
    if match := re.fullmatch(r"one image shows an? (.*) and the other an? (.*)", text):
        first, second = match.groups()
        return (first in left.names and second in right.names) or (second in left.names and first in right.names)
    if "same background" in text or "alike" in text:
        return left.background == right.background
    if match := re.fullmatch(r"both images have (?:an? )?(.*)", text):
        name = match[1].removesuffix(" background")
        assert name in BACKGROUNDS
        return left.background == right.background == name
    if match := re.fullmatch(r"the (left|right) image shows more things than the other", text):
        return (left.total > right.total) is (match[1] == "left") and left.total != right.total
    match = re.fullmatch(r"there are (\w+) (.*) in the two images together", text)
    assert match, text
    name = next(n for n in world.lexicon.names if world.lexicon[n].plural == match[2])
    return NUMBERS[left.count(name) + right.count(name)] == match[1]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_are_true_and_balanced(world: World, split: str) -> None:
    scenes = dict(zip(world.images(split), world.scenes[split], strict=True))
    rows = nlvr(world, split)
    assert len(rows) == len(scenes) * (_STATEMENTS_TRAIN if split == "train" else 1)
    for row in rows:
        assert row["images"][0] != row["images"][1]
        left, right = (scenes[i] for i in row["images"])
        assert str(judge(row["sentence"], left, right, world)) == row["label"], row
    labels = Counter(r["label"] for r in rows)
    assert set(labels) == {"True", "False"}
    assert abs(labels["True"] - labels["False"]) <= 6


def test_every_form_occurs(world: World) -> None:
    generator = StatementGenerator(world.lexicon, world.scenes["train"])
    rng = Random(2)
    for number in range(len(world.scenes["train"])):
        generator.generate(number, rng)
    assert min(generator.turns.get(f.__name__, 0) for f in generator.forms) > 200


def test_a_statement_alone_tells_nothing(world: World) -> None:
    test = nlvr(world, "test")
    model = BagOfWords([(r["sentence"], r["label"]) for r in nlvr(world, "train")])
    hits = sum(model.guess(r["sentence"]) == r["label"] for r in test)
    assert hits < len(test) / 2 + 3 * math.sqrt(len(test) / 4), hits / len(test)


def test_neither_image_alone_settles_most_statements(world: World) -> None:
    """Guess from one image: "both show a dog" is false if it shows none."""
    scenes = dict(zip(world.images("train"), world.scenes["train"], strict=True))
    for side in (0, 1):
        usual: dict[tuple[str, bool], Counter[str]] = {}
        for row in nlvr(world, "train"):
            match = re.fullmatch(r"(?:both images show|there is in each image) an? (.*)", row["sentence"])
            if match:
                shown = match[1] in scenes[row["images"][side]].names
                usual.setdefault(("both", shown), Counter())[row["label"]] += 1
        # If this side lacks the thing it is false, and that is known of a quarter of the rows only.
        right = sum(c.most_common(1)[0][1] for c in usual.values())
        assert right / sum(c.total() for c in usual.values()) < 0.82
