"""NLVR2: statements about two pictures.

Each is made from a pair it is true of; if it is to be false, one picture is exchanged (or both change places), so that
the text alone says nothing about the label.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from albef.datasets.emoji.captions import NUMBERS, with_article
from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon
from albef.datasets.emoji.scenes import Scene

_ATTEMPTS = 200

# Statement, left and right picture by number.
Statement = tuple[str, int, int]


class Comparer:
    """States things about pairs of scenes, true and false in turn for every form."""

    def __init__(self, lexicon: Lexicon, scenes: list[Scene]) -> None:
        self.lexicon, self.scenes = lexicon, scenes
        self.by_name: dict[str, list[int]] = {}
        for i, scene in enumerate(scenes):
            for group in scene.groups:
                self.by_name.setdefault(group.name, []).append(i)
        self.forms: tuple[Callable[[int, bool, Random], Statement | None], ...] = (
            self.both,
            self.each,
            self.paper,
            self.same_paper,
            self.more,
            self.total,
        )
        self.turns: dict[str, int] = {}

    def state(self, first: int, rng: Random) -> tuple[str, bool, int, int] | None:
        """A statement about scene ``first`` and another one: text, truth, left, right; None if no form suits."""
        for form in rng.sample(self.forms, len(self.forms)):
            turn = self.turns.get(form.__name__, 0)
            truth = turn % 2 == 0
            found = form(first, truth, rng)
            if found is not None:
                self.turns[form.__name__] = turn + 1
                return found[0], truth, found[1], found[2]
        return None

    def both(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Both pictures show a dog."""
        name = rng.choice(self.scenes[first].groups).name
        second = self._with(name, first, rng) if truth else self._pick(first, lambda s: name not in s.names, rng)
        text = rng.choice(("both images show", "there is in each image"))
        return _sides(f"{text} {with_article(name)}", first, second, rng)

    def each(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """One picture shows a dog, the other one a cat."""
        name = rng.choice(self.scenes[first].groups).name
        others = [n for n in self.by_name if n not in self.scenes[first].names]
        if not others:
            return None
        other = rng.choice(others)
        second = self._with(other, first, rng) if truth else self._pick(first, lambda s: other not in s.names, rng)
        names = [with_article(name), with_article(other)]
        rng.shuffle(names)
        return _sides(f"one image shows {names[0]} and the other {names[1]}", first, second, rng)

    def paper(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Both pictures have a blue background."""
        name = self.scenes[first].background
        second = self._pick(first, lambda s: (s.background == name) is truth, rng)
        paper = BACKGROUNDS[name]
        thing = with_article(f"{paper.color} background") if paper.pattern == "plain" else name
        return _sides(f"both images have {thing}", first, second, rng)

    def same_paper(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Both pictures have the same background."""
        name = self.scenes[first].background
        second = self._pick(first, lambda s: (s.background == name) is truth, rng)
        text = rng.choice(("the two images have the same background", "the backgrounds of both images are alike"))
        return _sides(text, first, second, rng)

    def more(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """The left picture shows more things than the right one."""
        second = self._pick(first, lambda s: s.total != self.scenes[first].total, rng)
        if second is None:
            return None
        less, more = sorted((first, second), key=lambda i: self.scenes[i].total)
        left_more = rng.random() < 0.5
        text = f"the {'left' if left_more else 'right'} image shows more things than the other"
        return (text, more, less) if left_more is truth else (text, less, more)

    def total(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """There are three dogs in the two pictures."""
        name = rng.choice(self.scenes[first].groups).name
        second = self._with(name, first, rng)
        if second is None:
            return None
        here, there = self.scenes[first].count(name), self.scenes[second].count(name)
        if here + there >= len(NUMBERS):
            return None
        if not truth:
            # Half of the exchanged pictures show another number of these things, the others none.
            pool = self.by_name[name] if rng.random() < 0.5 else None
            second = self._pick(first, lambda s: s.count(name) != there, rng, pool)
        text = f"there are {NUMBERS[here + there]} {self.lexicon[name].plural} in the two images together"
        return _sides(text, first, second, rng)

    def _with(self, name: str, first: int, rng: Random) -> int | None:
        """Another scene that shows ``name``."""
        found = [i for i in self.by_name[name] if i != first]
        return rng.choice(found) if found else None

    def _pick(
        self, first: int, wanted: Callable[[Scene], bool], rng: Random, pool: list[int] | None = None
    ) -> int | None:
        """Another scene that is ``wanted``, by trial among ``pool`` (default: all)."""
        for _ in range(_ATTEMPTS):
            second = rng.choice(pool) if pool else rng.randrange(len(self.scenes))
            if second != first and wanted(self.scenes[second]):
                return second
        return None


def _sides(text: str, first: int, second: int | None, rng: Random) -> Statement | None:
    if second is None:
        return None
    return (text, first, second) if rng.random() < 0.5 else (text, second, first)
