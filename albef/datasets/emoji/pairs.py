"""NLVR2: statements about two images.

A false statement is a true one about another pair: one image is exchanged, or both are swapped. The text alone thus
does not reveal the label.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from albef.datasets.emoji.captions import NUMBERS, with_article
from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon
from albef.datasets.emoji.scenes import Scene

_ATTEMPTS = 200

# Text, index of the left and of the right image.
Statement = tuple[str, int, int]


class StatementGenerator:
    """Generator of statements about pairs of scenes.

    Every form of statement is alternately true and false.
    """

    def __init__(self, lexicon: Lexicon, scenes: list[Scene]) -> None:
        self.lexicon, self.scenes = lexicon, scenes
        self.by_name: dict[str, list[int]] = {}
        for i, scene in enumerate(scenes):
            for group in scene.groups:
                self.by_name.setdefault(group.name, []).append(i)
        self.forms: tuple[Callable[[int, bool, Random], Statement | None], ...] = (
            self.both,
            self.each,
            self.background,
            self.same_background,
            self.more,
            self.total,
        )
        self.turns: dict[str, int] = {}

    def generate(self, first: int, rng: Random) -> tuple[str, bool, int, int] | None:
        """Return a statement about scene ``first`` and another one.

        Returns:
            Text, truth, index of the left and of the right scene; None if no form applies.
        """
        for form in rng.sample(self.forms, len(self.forms)):
            turn = self.turns.get(form.__name__, 0)
            truth = turn % 2 == 0
            statement = form(first, truth, rng)
            if statement is not None:
                self.turns[form.__name__] = turn + 1
                text, left, right = statement
                return text, truth, left, right
        return None

    def both(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Return a statement on an object in both images."""
        name = rng.choice(self.scenes[first].groups).name
        second = self._with(name, first, rng) if truth else self._pick(first, lambda s: name not in s.names, rng)
        text = rng.choice(("both images show", "there is in each image"))
        return _sides(f"{text} {with_article(name)}", first, second, rng)

    def each(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Return a statement on one object in each image."""
        name = rng.choice(self.scenes[first].groups).name
        others = [n for n in self.by_name if n not in self.scenes[first].names]
        if not others:
            return None
        other = rng.choice(others)
        second = self._with(other, first, rng) if truth else self._pick(first, lambda s: other not in s.names, rng)
        names = [with_article(name), with_article(other)]
        rng.shuffle(names)
        return _sides(f"one image shows {names[0]} and the other {names[1]}", first, second, rng)

    def background(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Return a statement on the background of both images."""
        name = self.scenes[first].background
        second = self._pick(first, lambda s: (s.background == name) is truth, rng)
        background = BACKGROUNDS[name]
        phrase = with_article(f"{background.color} background") if background.pattern == "plain" else name
        return _sides(f"both images have {phrase}", first, second, rng)

    def same_background(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Return a statement that both images have the same background."""
        name = self.scenes[first].background
        second = self._pick(first, lambda s: (s.background == name) is truth, rng)
        text = rng.choice(("the two images have the same background", "the backgrounds of both images are alike"))
        return _sides(text, first, second, rng)

    def more(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Return a statement on the image with more objects."""
        second = self._pick(first, lambda s: s.total != self.scenes[first].total, rng)
        if second is None:
            return None
        less, more = sorted((first, second), key=lambda i: self.scenes[i].total)
        left_more = rng.random() < 0.5
        text = f"the {'left' if left_more else 'right'} image shows more things than the other"
        return (text, more, less) if left_more is truth else (text, less, more)

    def total(self, first: int, truth: bool, rng: Random) -> Statement | None:
        """Return a statement on the count of an object in both images."""
        name = rng.choice(self.scenes[first].groups).name
        second = self._with(name, first, rng)
        if second is None:
            return None
        here, there = self.scenes[first].count(name), self.scenes[second].count(name)
        if here + there >= len(NUMBERS):
            return None
        if not truth:
            # Half of the exchanged images show another number of these objects, the others mostly none.
            pool = self.by_name[name] if rng.random() < 0.5 else None
            second = self._pick(first, lambda s: s.count(name) != there, rng, pool)
        text = f"there are {NUMBERS[here + there]} {self.lexicon[name].plural} in the two images together"
        return _sides(text, first, second, rng)

    def _with(self, name: str, first: int, rng: Random) -> int | None:
        """Return the index of another scene that shows ``name``."""
        others = [i for i in self.by_name[name] if i != first]
        return rng.choice(others) if others else None

    def _pick(
        self, first: int, accept: Callable[[Scene], bool], rng: Random, pool: list[int] | None = None
    ) -> int | None:
        """Return the index of another scene that ``accept`` accepts, by rejection sampling.

        Candidates are ``pool``, by default all scenes.
        """
        for _ in range(_ATTEMPTS):
            second = rng.choice(pool) if pool else rng.randrange(len(self.scenes))
            if second != first and accept(self.scenes[second]):
                return second
        return None


def _sides(text: str, first: int, second: int | None, rng: Random) -> Statement | None:
    """Return the statement with its scenes in random order.

    The result is None without a second scene.
    """
    if second is None:
        return None
    return (text, first, second) if rng.random() < 0.5 else (text, second, first)
