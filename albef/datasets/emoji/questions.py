"""Visual questions with answers of ten simulated annotators, some of them wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from albef.datasets.emoji.captions import RELATIONS, with_article
from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon
from albef.datasets.emoji.scenes import Compositions, Scene

ANNOTATORS = 10
_WRONG_ANSWERS = (0, 0, 0, 1, 1, 2, 3)  # equally likely numbers of wrong answers to a question
_YES_NO = ("yes", "no")
_SIZES = ("small", "large")
_COLORS = tuple(dict.fromkeys(b.color for b in BACKGROUNDS.values()))
_PATTERNS = tuple(dict.fromkeys(b.pattern for b in BACKGROUNDS.values()))
_EXTRA_NUMBERS = 2  # numbers above the largest count that may occur as wrong answers


@dataclass(frozen=True, slots=True)
class Question:
    """Question about one scene, with right and wrong answers.

    ``wrong`` answers are of the same kind as the right one.
    """

    text: str
    answer: str
    wrong: tuple[str, ...]


def vocabulary(lexicon: Lexicon, max_objects: int) -> list[str]:
    """Return all possible answers, sorted: the content of ``answer_list.json``."""
    answers = {*_YES_NO, *_SIZES, *_COLORS, *_PATTERNS, *lexicon.names, *_numbers(max_objects)}
    return sorted(answers | {s.color for s in lexicon if s.color})


def _numbers(max_objects: int) -> list[str]:
    return [str(n) for n in range(max_objects + _EXTRA_NUMBERS + 1)]


class QuestionGenerator:
    """Generator of questions about scenes of one split.

    Args:
        max_objects: Maximum number of sprites in an image.
        split: ``train``, ``val`` or ``test``. Absent objects in questions also form compositions of this split, so a
            rare pair of names does not reveal the answer.
    """

    def __init__(self, lexicon: Lexicon, compositions: Compositions, max_objects: int, split: str) -> None:
        self.lexicon, self.compositions, self.split = lexicon, compositions, split
        self.numbers = _numbers(max_objects)
        self.colors = tuple(dict.fromkeys((*_COLORS, *(s.color for s in lexicon if s.color))))
        self.kinds: tuple[tuple[Callable[[Scene, Random], Question | None], float], ...] = (
            (self.background, 1.0),
            (self.pattern, 0.5),
            (self.neighbor, 3.0),
            (self.relation, 2.0),
            (self.presence, 2.0),
            (self.number, 1.5),
            (self.total, 0.5),
            (self.color, 1.0),
            (self.size, 1.0),
        )

    def generate(self, scene: Scene, number: int, rng: Random) -> list[Question]:
        """Return up to ``number`` questions of different kinds."""
        remaining = list(self.kinds)
        questions: list[Question] = []
        while remaining and len(questions) < number:
            kind = rng.choices(remaining, [weight for _, weight in remaining])[0]
            remaining.remove(kind)
            question = kind[0](scene, rng)
            if question is not None:
                questions.append(question)
        return questions

    def background(self, scene: Scene, rng: Random) -> Question:
        """Return a question about the background color."""
        text = rng.choice(("what color is the background", "what is the color of the background"))
        return _question(text, BACKGROUNDS[scene.background].color, _COLORS)

    def pattern(self, scene: Scene, rng: Random) -> Question:
        """Return a question about the background pattern."""
        text = rng.choice(("what pattern does the background have", "what is the pattern of the background"))
        return _question(text, BACKGROUNDS[scene.background].pattern, _PATTERNS)

    def neighbor(self, scene: Scene, rng: Random) -> Question | None:
        """Return a question about the only object on one side of another."""
        if len(scene.groups) < 2:
            return None
        at = rng.randrange(len(scene.groups) - 1)
        words = RELATIONS[scene.axis]
        first, second = scene.groups[at], scene.groups[at + 1]
        # Among three groups, an outer one has two others on its inner side, so the answer would be ambiguous.
        if rng.random() < 0.5 and at == 0:
            reference, answer, relation = second, first, rng.choice(words[0])
        elif at + 2 == len(scene.groups):
            reference, answer, relation = first, second, rng.choice(words[1])
        else:
            reference, answer, relation = second, first, rng.choice(words[0])
        verb = "is" if answer.count == 1 else "are"
        text = f"what {verb} {relation} the {self._noun(reference.name, reference.count)}"
        return _question(text, answer.name, tuple(scene.names) + tuple(rng.sample(self.lexicon.names, 2)))

    def relation(self, scene: Scene, rng: Random) -> Question | None:
        """Return a yes/no question about the relation of two objects, balanced."""
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
        """Return a yes/no question about the presence of an object, balanced."""
        truth = rng.random() < 0.5
        name = rng.choice(scene.groups).name if truth else self.absent(scene, rng)
        if name is None:
            return None
        text = rng.choice((f"is there {with_article(name)}", f"do you see {with_article(name)}"))
        return _question(text, "yes" if truth else "no", _YES_NO)

    def number(self, scene: Scene, rng: Random) -> Question | None:
        """Return a question about the number of one object, sometimes zero."""
        name = self.absent(scene, rng) if rng.random() < 0.15 else rng.choice(scene.groups).name
        if name is None:
            return None
        plural = self.lexicon[name].plural
        text = rng.choice((f"how many {plural} are there", f"how many {plural} do you see"))
        return _question(text, str(scene.count(name)), tuple(self.numbers))

    def total(self, scene: Scene, rng: Random) -> Question:
        """Return a question about the total number of objects."""
        text = rng.choice(("how many things are in the image", "how many things are there in all"))
        return _question(text, str(scene.total), tuple(self.numbers))

    def color(self, scene: Scene, rng: Random) -> Question | None:
        """Return a question about the color of an object.

        Only objects whose name includes a color qualify.
        """
        sprites = [(self.lexicon[g.name], g.count) for g in scene.groups]
        nouns = [s.noun for s, _ in sprites]
        colored = [(s, n) for s, n in sprites if s.color and nouns.count(s.noun) == 1]
        if not colored:
            return None
        sprite, count = rng.choice(colored)
        noun = sprite.noun if count == 1 else sprite.plural.removeprefix(f"{sprite.color} ")
        return _question(f"what color {'is' if count == 1 else 'are'} the {noun}", str(sprite.color), self.colors)

    def size(self, scene: Scene, rng: Random) -> Question | None:
        """Return a question about the size of a single object."""
        group = scene.groups[0]
        if len(scene.groups) > 1 or group.size == "normal":
            return None
        first, second = rng.sample(_SIZES, 2)
        return _question(f"is the {group.name} {first} or {second}", group.size, _SIZES)

    def absent(self, scene: Scene, rng: Random) -> str | None:
        """Return an object that is not in the image, see `absent`."""
        return absent(scene, self.lexicon, self.compositions, self.split, rng)

    def _noun(self, name: str, count: int) -> str:
        return name if count == 1 else self.lexicon[name].plural


def absent(scene: Scene, lexicon: Lexicon, compositions: Compositions, split: str, rng: Random) -> str | None:
    """Return the name of an object that is not in ``scene``.

    Together with the scene it forms a composition of ``split``. The result is None if there is none.
    """
    names = tuple(sorted(scene.names))
    others = [
        n
        for n in lexicon.names
        if n not in scene.names and compositions.scene_split((*names, n), 1, scene.background) == split
    ]
    return rng.choice(others) if others else None


def answers(question: Question, rng: Random) -> list[str]:
    """Return the answers of ten annotators, most of them right."""
    wrong = rng.choice(_WRONG_ANSWERS) if question.wrong else 0
    result = [question.answer] * (ANNOTATORS - wrong) + [rng.choice(question.wrong) for _ in range(wrong)]
    rng.shuffle(result)
    return result


def _question(text: str, answer: str, options: tuple[str, ...]) -> Question:
    return Question(text, answer, tuple(sorted({o for o in options if o != answer})))
