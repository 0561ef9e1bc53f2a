"""Captions of scenes: full, partial, and corrupted like web captions."""

from __future__ import annotations

from random import Random

from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon
from albef.datasets.emoji.scenes import Group, Scene

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# By axis, phrases for the relation of a first object to a second, then of the second to the first.
RELATIONS = {
    "x": (("left of", "to the left of", "on the left of"), ("right of", "to the right of", "on the right of")),
    "y": (("above", "over", "on top of"), ("below", "under", "beneath")),
}
ENDS = {"x": ("on the left", "on the right"), "y": ("at the top", "at the bottom")}
ORDER = {"x": "from left to right", "y": "from top to bottom"}
_SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_PREFIXES = ("", "", "", "a photo of", "an image of", "a drawing of")
_ADJECTIVES = {"stripes": "striped", "dots": "dotted", "checks": "checked"}


def with_article(phrase: str) -> str:
    """Prefix the phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


class Captioner:
    """Caption generator; all randomness comes from the ``rng`` arguments.

    Args:
        lexicon: Sprites of the scenes.
        synonyms: Fraction of names replaced by a synonym.
    """

    def __init__(self, lexicon: Lexicon, synonyms: float = 0.0) -> None:
        self.lexicon = lexicon
        self.synonyms = synonyms

    def full(self, scene: Scene, rng: Random) -> str:
        """Return a caption of all groups with their counts, relations and background."""
        objects = [self.noun_phrase(g, rng) for g in scene.groups]
        prefix = rng.choice(_PREFIXES) if len(objects) < 3 else ""  # avoids overlong captions
        return _join(prefix, _arranged(objects, scene.axis, rng), background_phrase(scene.background, rng))

    def partial(self, scene: Scene, rng: Random) -> str:
        """Return a caption that omits part of the scene."""
        objects = [self.noun_phrase(g, rng) for g in scene.groups]
        single = rng.choice(objects)
        kind = rng.randrange(4)
        if kind == 0:
            return _join(rng.choice(_PREFIXES), _arranged(objects, scene.axis, rng))
        if kind == 1:
            return _join(rng.choice(_PREFIXES), single, background_phrase(scene.background, rng))
        listed = enumerate_phrases(rng.sample(objects, len(objects)))
        if kind == 2:
            return _join(rng.choice(("a photo with", "here you see", "this shows", "look at")), listed)
        return _join(listed, background_phrase(scene.background, rng))

    def caption(self, scene: Scene, rng: Random, partial: float) -> str:
        """Return a partial caption with probability ``partial``, else a full one."""
        return self.partial(scene, rng) if rng.random() < partial else self.full(scene, rng)

    def noun_phrase(self, group: Group, rng: Random) -> str:
        """Return the noun phrase of a group: "a large dog", "two cats"."""
        sprite = self.lexicon[group.name]
        if group.count > 1:
            number = "a pair of" if group.count == 2 and rng.random() < 0.2 else NUMBERS[group.count]
            return f"{number} {sprite.plural}"
        name = sprite.synonym if sprite.synonym and rng.random() < self.synonyms else sprite.name
        if group.size == "normal":
            return with_article(name)
        return with_article(f"{rng.choice(_SIZES[group.size])} {name}")

    def corrupt(self, caption: str, others: list[str], rng: Random) -> str:
        """Return a noisy caption.

        It is the caption of another image, or has its words shuffled or partly dropped.
        """
        kind = rng.randrange(3)
        if kind == 0:
            return rng.choice(others)
        words = caption.split()
        if kind == 1:
            rng.shuffle(words)
            return " ".join(words)
        kept = [w for w in words if rng.random() < 0.5]
        return " ".join(kept or words[:1])


def background_phrase(name: str, rng: Random) -> str:
    """Return a background phrase such as "on a blue background"."""
    background = BACKGROUNDS[name]
    if background.pattern != "plain":
        if rng.random() < 0.6:
            return rng.choice(("on", "against")) + f" {background.name}"
        return "on " + with_article(f"{background.color} {_ADJECTIVES[background.pattern]} background")
    return rng.choice(("on", "on", "against", "with")) + " " + with_article(f"{background.color} background")


def enumerate_phrases(phrases: list[str]) -> str:
    """Join phrases as in: a cat, a dog and a bus."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _arranged(objects: list[str], axis: str, rng: Random) -> str:
    """Join noun phrases with their spatial relations."""
    forward, backward = RELATIONS[axis]
    start, end = ENDS[axis]
    if len(objects) == 1:
        return objects[0]
    if len(objects) == 2:
        first, second = objects
        kind = rng.randrange(5)
        if kind < 2:
            return f"{first} {rng.choice(forward)} {second}"
        if kind < 4:
            return f"{second} {rng.choice(backward)} {first}"
        return f"{first} {start} and {second} {end}"
    if len(objects) == 3 and rng.random() < 0.4:
        return f"{objects[1]} between {objects[0]} {start} and {objects[2]} {end}"
    return f"{ORDER[axis]} {enumerate_phrases(objects)}"


def _join(*parts: str) -> str:
    return " ".join(p for p in parts if p)
