"""Captions: what a scene shows, in varying words, wholly or in part, and the noise of the web."""

from __future__ import annotations

from random import Random

from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon
from albef.datasets.emoji.scenes import Group, Scene

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Relation of a first thing to a second, by axis, then of the second to the first.
RELATIONS = {
    "x": (("left of", "to the left of", "on the left of"), ("right of", "to the right of", "on the right of")),
    "y": (("above", "over", "on top of"), ("below", "under", "beneath")),
}
ENDS = {"x": ("on the left", "on the right"), "y": ("at the top", "at the bottom")}
ORDER = {"x": "from left to right", "y": "from top to bottom"}
_SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_PREFIXES = ("", "", "", "a picture of", "an image of", "a drawing of")
_ADJECTIVES = {"stripes": "striped", "dots": "dotted", "checks": "checked"}


def with_article(phrase: str) -> str:
    """The phrase behind the right indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


class Captioner:
    """Words for scenes; every choice comes from the generator handed in."""

    def __init__(self, lexicon: Lexicon, synonyms: float = 0.0) -> None:
        self.lexicon = lexicon
        self.synonyms = synonyms  # share of names replaced by another everyday word

    def full(self, scene: Scene, rng: Random) -> str:
        """A caption that names every group with its count, the relations and the background."""
        things = [self.thing(g, rng) for g in scene.groups]
        prefix = rng.choice(_PREFIXES) if len(things) < 3 else ""  # long enough as it is
        return _join(prefix, _arranged(things, scene.axis, rng), background(scene.background, rng))

    def partial(self, scene: Scene, rng: Random) -> str:
        """A caption that leaves something out."""
        things = [self.thing(g, rng) for g in scene.groups]
        some = rng.choice(things)
        kind = rng.randrange(4)
        if kind == 0:
            return _join(rng.choice(_PREFIXES), _arranged(things, scene.axis, rng))
        if kind == 1:
            return _join(rng.choice(_PREFIXES), some, background(scene.background, rng))
        listed = listing(rng.sample(things, len(things)))
        if kind == 2:
            return _join(rng.choice(("a picture with", "here you see", "this shows", "look at")), listed)
        return _join(listed, background(scene.background, rng))

    def any(self, scene: Scene, rng: Random, partial: float) -> str:
        """A full caption, or in a share ``partial`` of cases one that leaves something out."""
        return self.partial(scene, rng) if rng.random() < partial else self.full(scene, rng)

    def thing(self, group: Group, rng: Random) -> str:
        """A noun phrase for a group: "a large dog", "two cats"."""
        sprite = self.lexicon[group.name]
        if group.count > 1:
            number = "a pair of" if group.count == 2 and rng.random() < 0.2 else NUMBERS[group.count]
            return f"{number} {sprite.plural}"
        name = sprite.synonym if sprite.synonym and rng.random() < self.synonyms else sprite.name
        if group.size == "normal":
            return with_article(name)
        return with_article(f"{rng.choice(_SIZES[group.size])} {name}")

    def noisy(self, caption: str, others: list[str], rng: Random) -> str:
        """What a web crawl would have instead: the text of another picture, or a mangled one."""
        kind = rng.randrange(3)
        if kind == 0:
            return rng.choice(others)
        words = caption.split()
        if kind == 1:
            rng.shuffle(words)
            return " ".join(words)
        kept = [w for w in words if rng.random() < 0.5]
        return " ".join(kept or words[:1])


def background(name: str, rng: Random) -> str:
    """A phrase for the background: "on a blue background", "on green stripes"."""
    paper = BACKGROUNDS[name]
    if paper.pattern != "plain":
        if rng.random() < 0.6:
            return rng.choice(("on", "against")) + f" {paper.name}"
        return "on " + with_article(f"{paper.color} {_ADJECTIVES[paper.pattern]} background")
    return rng.choice(("on", "on", "against", "with")) + " " + with_article(f"{paper.color} background")


def listing(things: list[str]) -> str:
    """Join things as in: a cat, a dog and a bus."""
    return things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]


def _arranged(things: list[str], axis: str, rng: Random) -> str:
    forward, backward = RELATIONS[axis]
    start, end = ENDS[axis]
    if len(things) == 1:
        return things[0]
    if len(things) == 2:
        first, second = things
        kind = rng.randrange(5)
        if kind < 2:
            return f"{first} {rng.choice(forward)} {second}"
        if kind < 4:
            return f"{second} {rng.choice(backward)} {first}"
        return f"{first} {start} and {second} {end}"
    if len(things) == 3 and rng.random() < 0.4:
        return f"{things[1]} between {things[0]} {start} and {things[2]} {end}"
    return f"{ORDER[axis]} {listing(things)}"


def _join(*parts: str) -> str:
    return " ".join(p for p in parts if p)
