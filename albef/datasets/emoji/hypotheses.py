"""Visual entailment: hypotheses that an image entails, contradicts or leaves open.

A hypothesis presupposes the objects it names; it is neutral if one of them is not in the image. Every form of sentence
occurs equally often with each label and with the same words, so the text alone does not reveal the label.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from random import Random

from albef.datasets.emoji.captions import NUMBERS, RELATIONS, background_phrase
from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon
from albef.datasets.emoji.questions import absent
from albef.datasets.emoji.scenes import Compositions, Group, Scene

LABELS = ("entailment", "neutral", "contradiction")


class HypothesisGenerator:
    """Generator of hypotheses about scenes of one split.

    Every form of sentence cycles through the labels.
    """

    def __init__(self, lexicon: Lexicon, compositions: Compositions, max_objects: int, split: str) -> None:
        self.lexicon, self.compositions, self.split = lexicon, compositions, split
        self.counts = range(2, max_objects + 1)
        self.forms: tuple[Callable[[Scene, str, Random], str | None], ...] = (
            self.relation,
            self.relation,
            self.background,
            self.middle,
            self.size,
            self.number,
            self.color,
        )
        self.turns: dict[str, int] = {}

    def generate(self, scene: Scene, rng: Random, exclude: Container[str] = ()) -> tuple[str, str] | None:
        """Return a new sentence and its label.

        Args:
            exclude: Sentences that must not be repeated.

        Returns:
            Sentence and label, None if no form applies to the scene.
        """
        for form in rng.sample(self.forms, len(self.forms)):
            turn = self.turns.get(form.__name__, 0)
            label = LABELS[turn % len(LABELS)]
            sentence = form(scene, label, rng)
            if sentence is not None and sentence not in exclude:
                self.turns[form.__name__] = turn + 1
                return sentence, label
        return None

    def relation(self, scene: Scene, label: str, rng: Random) -> str | None:
        """Return a hypothesis on the relation of two groups."""
        if len(scene.groups) != 2:
            return None
        direction = rng.randrange(2)
        first, second = scene.groups if direction == 0 else scene.groups[::-1]
        if label == "neutral":
            if (other := self._absent(scene, rng)) is None:
                return None
            # The missing object and the direction are random, so neither reveals the label.
            if rng.random() < 0.5:
                first = replace(first, name=other)
            else:
                second = replace(second, name=other)
            direction = rng.randrange(2)
        elif label == "contradiction":
            direction = 1 - direction
        relation = rng.choice(RELATIONS[scene.axis][direction])
        return f"{self._the(first)} {_be(first)} {relation} {self._the(second)}"

    def background(self, scene: Scene, label: str, rng: Random) -> str | None:
        """Return a hypothesis on the background.

        Scenes of a single group are excluded: their name and background form a composition of the split, so the text
        would reveal the label.
        """
        if len(scene.groups) < 2:
            return None
        group = rng.choice(scene.groups)
        name = scene.background
        if label == "neutral":
            if (other := self._absent(scene, rng)) is None:
                return None
            group, name = replace(group, name=other), rng.choice(list(BACKGROUNDS))
        elif label == "contradiction":
            name = rng.choice([b for b in BACKGROUNDS if b != name])
        return f"{self._the(group)} {_be(group)} {background_phrase(name, rng)}"

    def middle(self, scene: Scene, label: str, rng: Random) -> str | None:
        """Return a hypothesis on the middle one of three groups."""
        if len(scene.groups) != 3:
            return None
        left, middle, right = scene.groups
        inner, outer = middle, [left, right]
        if label == "contradiction":
            at = rng.randrange(2)
            inner, outer[at] = outer[at], inner
        rng.shuffle(outer)
        groups = [inner, *outer]
        if label == "neutral":
            if (other := self._absent(scene, rng)) is None:
                return None
            at = rng.randrange(3)
            groups[at] = replace(groups[at], name=other)
        inner, first, second = groups
        return f"{self._the(inner)} {_be(inner)} between {self._the(first)} and {self._the(second)}"

    def size(self, scene: Scene, label: str, rng: Random) -> str | None:
        """Return a hypothesis on the size of a single object."""
        group = scene.groups[0]
        if len(scene.groups) > 1 or group.size == "normal":
            return None
        size: str = group.size
        if label == "neutral":
            if (other := self._absent(scene, rng)) is None:
                return None
            group, size = replace(group, name=other), rng.choice(("small", "large"))
        elif label == "contradiction":
            size = "small" if size == "large" else "large"
        return f"{self._the(group)} is {size}"

    def number(self, scene: Scene, label: str, rng: Random) -> str | None:
        """Return a hypothesis on the count of a single group."""
        group = scene.groups[0]
        if len(scene.groups) > 1 or group.count == 1 or len(self.counts) < 2:
            return None
        name, count = group.name, group.count
        if label == "neutral":
            if (other := self._absent(scene, rng)) is None:
                return None
            name, count = other, rng.choice(self.counts)
        elif label == "contradiction":
            count = rng.choice([c for c in self.counts if c != count])
        return f"the {self.lexicon[name].plural} are {NUMBERS[count]} in all"

    def color(self, scene: Scene, label: str, rng: Random) -> str | None:
        """Return a hypothesis on the color of an object.

        It is neutral if no object of this noun is in the image.
        """
        colored = {g.name: s for g in scene.groups if g.count == 1 and (s := self.lexicon[g.name]).color}
        nouns = [self.lexicon[g.name].noun for g in scene.groups]
        unique = [n for n, s in colored.items() if nouns.count(s.noun) == 1]
        if not unique:
            return None
        sprite = colored[rng.choice(unique)]
        if label == "entailment":
            return f"the {sprite.noun} is {sprite.color}"
        if label == "contradiction":
            others = [s.color for s in self.lexicon if s.noun == sprite.noun and s.color != sprite.color]
            return f"the {sprite.noun} is {rng.choice(others)}" if others else None
        missing = [s for s in self.lexicon if s.color and s.noun not in nouns]
        other = rng.choice(missing) if missing else None
        return f"the {other.noun} is {other.color}" if other else None

    def _absent(self, scene: Scene, rng: Random) -> str | None:
        return absent(scene, self.lexicon, self.compositions, self.split, rng)

    def _the(self, group: Group) -> str:
        if group.count == 1:
            return f"the {group.name}"
        return f"the {NUMBERS[group.count]} {self.lexicon[group.name].plural}"


def _be(group: Group) -> str:
    return "is" if group.count == 1 else "are"
