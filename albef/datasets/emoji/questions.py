"""Visual questions with the answers of ten people, some of whom did not look well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from albef.datasets.emoji.captions import RELATIONS, with_article
from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon
from albef.datasets.emoji.scenes import Compositions, Scene

PEOPLE = 10
_DISSENT = (0, 0, 0, 1, 1, 2, 3)  # how many of them answer something else
_YES_NO = ("yes", "no")
_SIZES = ("small", "large")
_COLORS = tuple(dict.fromkeys(b.color for b in BACKGROUNDS.values()))
_PATTERNS = tuple(dict.fromkeys(b.pattern for b in BACKGROUNDS.values()))
_MORE = 2  # numbers beyond the largest count that a careless person may answer


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene; ``wrong`` are answers of the same kind, for careless people."""

    text: str
    answer: str
    wrong: tuple[str, ...]


def vocabulary(lexicon: Lexicon, max_objects: int) -> list[str]:
    """Every answer there can be, sorted: the ``answer_list.json`` of the world."""
    answers = {*_YES_NO, *_SIZES, *_COLORS, *_PATTERNS, *lexicon.names, *_numbers(max_objects)}
    return sorted(answers | {s.color for s in lexicon if s.color})


def _numbers(max_objects: int) -> list[str]:
    return [str(n) for n in range(max_objects + _MORE + 1)]


class QuestionGenerator:
    """Asks about scenes of one split.

    Args:
        max_objects: Most sprites of a picture.
        split: ``train``, ``val`` or ``test``: things asked for in vain make compositions of this split too, so that
            no rare pair of names tells the answer.
    """

    def __init__(self, lexicon: Lexicon, compositions: Compositions, max_objects: int, split: str) -> None:
        self.lexicon, self.compositions, self.split = lexicon, compositions, split
        self.numbers = _numbers(max_objects)
        self.colors = tuple(dict.fromkeys((*_COLORS, *(s.color for s in lexicon if s.color))))
        self.kinds: tuple[tuple[Callable[[Scene, Random], Question | None], float], ...] = (
            (self.background, 1.0),
            (self.pattern, 0.5),
            (self.neighbour, 3.0),
            (self.relation, 2.0),
            (self.presence, 2.0),
            (self.number, 1.5),
            (self.total, 0.5),
            (self.color, 1.0),
            (self.size, 1.0),
        )

    def ask(self, scene: Scene, number: int, rng: Random) -> list[Question]:
        """Up to ``number`` questions of different kinds."""
        open_kinds = list(self.kinds)
        asked: list[Question] = []
        while open_kinds and len(asked) < number:
            kind = rng.choices(open_kinds, [w for _, w in open_kinds])[0]
            open_kinds.remove(kind)
            question = kind[0](scene, rng)
            if question is not None:
                asked.append(question)
        return asked

    def background(self, scene: Scene, rng: Random) -> Question:
        """The colour of the paper."""
        text = rng.choice(("what color is the background", "what is the color of the background"))
        return _question(text, BACKGROUNDS[scene.background].color, _COLORS)

    def pattern(self, scene: Scene, rng: Random) -> Question:
        """Stripes, dots, checks or plain."""
        text = rng.choice(("what pattern does the background have", "what is the pattern of the background"))
        return _question(text, BACKGROUNDS[scene.background].pattern, _PATTERNS)

    def neighbour(self, scene: Scene, rng: Random) -> Question | None:
        """What stands beside a thing, where that is one thing only."""
        if len(scene.groups) < 2:
            return None
        at = rng.randrange(len(scene.groups) - 1)
        words = RELATIONS[scene.axis]
        first, second = scene.groups[at], scene.groups[at + 1]
        # Of three in a row the outer ones have two things beyond them.
        if rng.random() < 0.5 and at == 0:
            said, answer, relation = second, first, rng.choice(words[0])
        elif at + 2 == len(scene.groups):
            said, answer, relation = first, second, rng.choice(words[1])
        else:
            said, answer, relation = second, first, rng.choice(words[0])
        verb = "is" if answer.count == 1 else "are"
        text = f"what {verb} {relation} the {self._noun(said.name, said.count)}"
        return _question(text, answer.name, tuple(scene.names) + tuple(rng.sample(self.lexicon.names, 2)))

    def relation(self, scene: Scene, rng: Random) -> Question | None:
        """Whether one thing is left of (above, ...) another; as often yes as no."""
        if len(scene.groups) < 2:
            return None
        i, j = sorted(rng.sample(range(len(scene.groups)), 2))
        truth = rng.random() < 0.5
        direction = rng.randrange(2)  # 0: the words for "left of" or "above"
        first, second = (i, j) if truth == (direction == 0) else (j, i)
        a, b = scene.groups[first], scene.groups[second]
        verb = "is" if a.count == 1 else "are"
        relation = rng.choice(RELATIONS[scene.axis][direction])
        text = f"{verb} the {self._noun(a.name, a.count)} {relation} the {self._noun(b.name, b.count)}"
        return _question(text, "yes" if truth else "no", _YES_NO)

    def presence(self, scene: Scene, rng: Random) -> Question | None:
        """Whether a thing is in the picture; as often yes as no."""
        truth = rng.random() < 0.5
        name = rng.choice(scene.groups).name if truth else self.absent(scene, rng)
        if name is None:
            return None
        text = rng.choice((f"is there {with_article(name)}", f"do you see {with_article(name)}"))
        return _question(text, "yes" if truth else "no", _YES_NO)

    def number(self, scene: Scene, rng: Random) -> Question | None:
        """How many of one thing there are; sometimes none."""
        name = self.absent(scene, rng) if rng.random() < 0.15 else rng.choice(scene.groups).name
        if name is None:
            return None
        plural = self.lexicon[name].plural
        text = rng.choice((f"how many {plural} are there", f"how many {plural} do you see"))
        return _question(text, str(scene.count(name)), tuple(self.numbers))

    def total(self, scene: Scene, rng: Random) -> Question:
        """How many things there are in all."""
        text = rng.choice(("how many things are in the picture", "how many things are there in all"))
        return _question(text, str(scene.total), tuple(self.numbers))

    def color(self, scene: Scene, rng: Random) -> Question | None:
        """The colour of a thing whose name says it."""
        sprites = [(self.lexicon[g.name], g.count) for g in scene.groups]
        nouns = [s.noun for s, _ in sprites]
        known = [(s, n) for s, n in sprites if s.color and nouns.count(s.noun) == 1]
        if not known:
            return None
        sprite, count = rng.choice(known)
        noun = sprite.noun if count == 1 else sprite.plural.removeprefix(f"{sprite.color} ")
        return _question(f"what color {'is' if count == 1 else 'are'} the {noun}", str(sprite.color), self.colors)

    def size(self, scene: Scene, rng: Random) -> Question | None:
        """Whether a thing alone in the picture is small or large."""
        group = scene.groups[0]
        if len(scene.groups) > 1 or group.size == "normal":
            return None
        first, second = rng.sample(_SIZES, 2)
        return _question(f"is the {group.name} {first} or {second}", group.size, _SIZES)

    def absent(self, scene: Scene, rng: Random) -> str | None:
        """A thing that is not in the picture, but could be in one of this split."""
        return absent(scene, self.lexicon, self.compositions, self.split, rng)

    def _noun(self, name: str, count: int) -> str:
        return name if count == 1 else self.lexicon[name].plural


def absent(scene: Scene, lexicon: Lexicon, compositions: Compositions, split: str, rng: Random) -> str | None:
    """A name that is not in ``scene`` and makes a composition of ``split`` with it; None if there is none."""
    names = tuple(sorted(scene.names))
    others = [
        n
        for n in lexicon.names
        if n not in scene.names and compositions.split((*names, n), 1, scene.background) == split
    ]
    return rng.choice(others) if others else None


def answers(question: Question, rng: Random) -> list[str]:
    """What ten people answer; most of them rightly."""
    dissent = rng.choice(_DISSENT) if question.wrong else 0
    given = [question.answer] * (PEOPLE - dissent) + [rng.choice(question.wrong) for _ in range(dissent)]
    rng.shuffle(given)
    return given


def _question(text: str, answer: str, options: tuple[str, ...]) -> Question:
    return Question(text, answer, tuple(sorted({o for o in options if o != answer})))
