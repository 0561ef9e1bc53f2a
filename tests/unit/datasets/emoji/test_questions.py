from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from albef.datasets.emoji.captions import RELATIONS
from albef.datasets.emoji.lexicon import BACKGROUNDS
from albef.datasets.emoji.lists import make, vqa
from albef.datasets.emoji.questions import ANNOTATORS, QuestionGenerator, answers, vocabulary
from albef.datasets.emoji.scenes import Compositions, Scene
from albef.datasets.emoji.world import World
from tests.unit.conftest import small

CONFIG = small().emoji


@pytest.fixture(scope="module")
def generator(world: World) -> QuestionGenerator:
    return QuestionGenerator(world.lexicon, Compositions(world.seed), CONFIG.max_objects, "train")


def order(scene: Scene, world: World) -> list[set[str]]:
    """Both numbers of every group's name, first to last along the axis."""
    return [{g.name, world.lexicon[g.name].plural} for g in scene.groups]


def truth(text: str, scene: Scene, world: World) -> str | None:
    """The answer by the scene record alone, by other rules than those that asked."""
    things = order(scene, world)
    paper = BACKGROUNDS[scene.background]
    if text.startswith("what color") or "color of the background" in text:
        if "background" in text:
            return paper.color
        noun = text.split(" the ")[1]
        return next(
            s.color
            for s in (world.lexicon[g.name] for g in scene.groups)
            if s.color and (s.noun == noun or s.plural.endswith(noun))
        )
    if "pattern" in text:
        return paper.pattern
    if " or " in text:
        return scene.groups[0].size
    if text.startswith("how many things"):
        return str(scene.total)
    if match := re.match(r"how many (.*?) (?:are there|do you see)", text):
        names = [n for n in world.lexicon.names if world.lexicon[n].plural == match[1]]
        return str(scene.count(names[0]))
    if match := re.match(r"(?:is there|do you see) an? (.*)", text):
        return "yes" if match[1] in scene.names else "no"
    for direction, words in enumerate(RELATIONS[scene.axis]):
        for word in sorted(words, key=len, reverse=True):
            if match := re.match(rf"(?:is|are) the (.*) {word} the (.*)", text):
                first = next(i for i, t in enumerate(things) if match[1] in t)
                second = next(i for i, t in enumerate(things) if match[2] in t)
                return "yes" if (first < second) is (direction == 0) else "no"
            if match := re.match(rf"what (?:is|are) {word} the (.*)", text):
                at = next(i for i, t in enumerate(things) if match[1] in t)
                beyond = scene.groups[:at] if direction == 0 else scene.groups[at + 1 :]
                assert len(beyond) == 1, text
                return beyond[0].name
    return None


def test_answers_are_true(world: World, generator: QuestionGenerator) -> None:
    rng = Random(5)
    asked = 0
    for scene in world.scenes["train"][:1500]:
        for question in generator.generate(scene, 4, rng):
            assert truth(question.text, scene, world) == question.answer, (question, scene)
            assert question.answer not in question.wrong
            asked += 1
    assert asked > 4000


def test_every_kind_is_asked(world: World, generator: QuestionGenerator) -> None:
    rng = Random(5)
    for kind, _ in generator.kinds:
        found = [q for s in world.scenes["train"][:800] if (q := kind(s, rng)) is not None]
        assert len(found) >= 20, kind.__name__


@pytest.mark.parametrize("kind", ["relation", "presence"])
def test_yes_is_as_likely_as_no(world: World, generator: QuestionGenerator, kind: str) -> None:
    rng = Random(5)
    scenes = world.scenes["train"]
    found = Counter(q.answer for s in scenes if (q := getattr(generator, kind)(s, rng)) is not None)
    assert set(found) == {"yes", "no"}
    assert abs(found["yes"] / found.total() - 0.5) < 0.05


def test_no_question_alone_is_an_answer(world: World) -> None:
    """The most frequent training answer per question barely beats guessing by kind."""
    usual: dict[str, Counter[str]] = {}
    for row in vqa(world, "train", CONFIG):
        answer = row["answer"] if isinstance(row["answer"], str) else Counter(row["answer"]).most_common(1)[0][0]
        usual.setdefault(row["question"], Counter())[answer] += 1
    rows = [r for r in vqa(world, "test", CONFIG) if r["question"] in usual]
    hits = sum(usual[r["question"]].most_common(1)[0][0] == Counter(r["answer"]).most_common(1)[0][0] for r in rows)
    assert len(rows) > 200
    assert hits / len(rows) < 0.6


def test_rows_are_official(world: World) -> None:
    lists = make(world, CONFIG)
    known = set(lists["answer_list"])
    assert known == set(vocabulary(world.lexicon, CONFIG.max_objects))
    assert lists["answer_list"] == sorted(known)
    ids = [r["question_id"] for s in ("train", "val", "test") for r in lists[f"vqa_{s}"] if "question_id" in r]
    assert len(set(ids)) == len(ids)
    genome = [r for r in lists["vqa_train"] if r["dataset"] == "vg"]
    assert 0.1 < len(genome) / len(lists["vqa_train"]) < 0.2
    assert all(isinstance(r["answer"], str) and "question_id" not in r for r in genome)
    assert all(r["dataset"] == "vqa" for s in ("val", "test") for r in lists[f"vqa_{s}"])
    for row in lists["vqa_val"] + lists["vqa_test"]:
        assert len(row["answer"]) == ANNOTATORS
        assert set(row["answer"]) <= known


def test_some_people_are_careless_but_most_are_right(world: World, generator: QuestionGenerator) -> None:
    rng = Random(5)
    unanimous = total = 0
    for scene in world.scenes["train"][:300]:
        for question in generator.generate(scene, 2, rng):
            given = Counter(answers(question, rng))
            assert given.total() == ANNOTATORS
            assert given[question.answer] >= 7
            unanimous += given[question.answer] == ANNOTATORS
            total += 1
    assert 0.3 < unanimous / total < 0.6
