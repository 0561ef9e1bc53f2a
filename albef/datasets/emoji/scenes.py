"""What a picture holds: groups of sprites along one axis, on a background. Scenes are drawn from a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from random import Random
from typing import Any, Literal

from albef.datasets.emoji.lexicon import BACKGROUNDS, Lexicon, LexiconError

Size = Literal["small", "normal", "large"]
Box = tuple[int, int, int, int]  # x, y, width, height in pixels

# Layouts with their weights: how many of what stand in each group.
_LAYOUTS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((1,), 0.15),
    ((2,), 0.04),
    ((3,), 0.03),
    ((4,), 0.03),
    ((1, 1), 0.5),
    ((2, 1), 0.05),
    ((1, 2), 0.05),
    ((3, 1), 0.02),
    ((1, 3), 0.02),
    ((2, 2), 0.01),
    ((1, 1, 1), 0.1),
)
# In pretraining half of the pictures show one thing: names are learned from those, how things stand from the others.
_ALONE_IN_PRETRAINING = 0.5
# Longest side of a sprite, as a share of the picture's side.
_ALONE = {"small": 0.28, "normal": 0.47, "large": 0.72}
_AMONG = {"small": 0.3, "normal": 0.42, "large": 0.5}
_HELD_OUT = 0.1  # of all compositions, for test; as many for val
_TWINS = 0.15  # share of evaluation pairs followed by the same two things the other way round
_ATTEMPTS = 5_000


@dataclass(frozen=True, slots=True)
class Group:
    """``count`` sprites of one name and one size."""

    name: str
    count: int
    size: Size
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Scene:
    """One picture. ``groups`` stand left to right (axis ``x``) or top to bottom (axis ``y``)."""

    background: str
    axis: Literal["x", "y"]
    groups: tuple[Group, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """What is in the picture."""
        return frozenset(g.name for g in self.groups)

    @property
    def total(self) -> int:
        """Sprites in the picture."""
        return sum(g.count for g in self.groups)

    def count(self, name: str) -> int:
        """Sprites of this name."""
        return sum(g.count for g in self.groups if g.name == name)

    @property
    def key(self) -> tuple[Any, ...]:
        """All that a full caption tells: equal keys, same description."""
        axis = self.axis if len(self.groups) > 1 else ""
        return self.background, axis, tuple((g.name, g.count) for g in self.groups)

    def record(self, image: str) -> dict[str, Any]:
        """The plain-data form kept in ``scenes.json``."""
        return {
            "image": image,
            "background": self.background,
            "axis": self.axis,
            "objects": [
                {"name": g.name, "size": g.size, "group": i, "box": list(box)}
                for i, g in enumerate(self.groups)
                for box in g.boxes
            ],
        }


class Compositions:
    """Which split a composition belongs to, by hash: what test shows together, training never does.

    Two names in one picture are a composition, whatever else is there; a name alone is one with its count and
    background.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, *parts: str) -> str:
        """``train``, ``val`` or ``test``."""
        split = self._known.get(parts)
        if split is None:
            digest = hashlib.blake2b("|".join((str(self.seed), *parts)).encode(), digest_size=8).digest()
            share = int.from_bytes(digest, "big") / 2**64
            split = "test" if share < _HELD_OUT else "val" if share < 2 * _HELD_OUT else "train"
            self._known[parts] = split
        return split

    def pair(self, first: str, second: str) -> str:
        """The split of two names in one picture."""
        return self.of(*sorted((first, second)))

    def split(self, names: tuple[str, ...], count: int, background: str) -> str | None:
        """The split of a picture, None if it mixes compositions of val and test."""
        if len(names) == 1:
            return self.of(names[0], str(count), background)
        splits = {self.pair(a, b) for a, b in combinations(names, 2)} - {"train"}
        return "train" if not splits else splits.pop() if len(splits) == 1 else None


def draw(split: str, number: int, *, lexicon: Lexicon, side: int, max_objects: int, seed: int) -> list[Scene]:
    """Draw the scenes of a split.

    Args:
        split: ``pretrain`` and ``train`` hold the compositions of training; in ``val`` and ``test`` no two pictures
            have the same full description, and none holds all that another one's description names.
        number: Scenes to draw.
        side: Pixels per side of the picture.

    Raises:
        LexiconError: If there are too few sprites for so many different scenes.
    """
    layouts = [(c, w) for c, w in _LAYOUTS if sum(c) <= max_objects and len(c) <= len(lexicon)]
    candidates = _candidates(split, lexicon, layouts, side, seed)
    scenes: list[Scene] = []
    if split in ("pretrain", "train"):
        while len(scenes) < number:
            scenes.append(next(candidates))
        return scenes
    rng = Random(f"{seed}/{split}/twins")
    seen: dict[str, list[frozenset[str]]] = {b: [] for b in BACKGROUNDS}
    attempts = 0
    while len(scenes) < number:
        scene = next(candidates)
        attempts += 1
        if attempts > _ATTEMPTS + 20 * number:
            raise LexiconError(f"{split}: {len(lexicon)} sprites do not give {number} scenes that differ in their text")
        names, others = scene.names, seen[scene.background]
        if any(names <= other or other <= names for other in others):
            continue
        others.append(names)
        scenes.append(scene)
        # The same two things the other way round: only the relation tells the two pictures apart.
        if len(scene.groups) == 2 and len(scenes) < number and rng.random() < _TWINS:
            first, second = scene.groups
            counts, sizes = (second.count, first.count), (second.size, first.size)
            scenes.append(_place((second.name, first.name), counts, sizes, scene, lexicon, side, rng))
    return scenes


def _candidates(
    split: str, lexicon: Lexicon, layouts: list[tuple[tuple[int, ...], float]], side: int, seed: int
) -> Iterator[Scene]:
    """Endless scenes whose composition belongs to ``split``."""
    rng = Random(f"{seed}/{split}/scenes")
    compositions = Compositions(seed)
    wanted = "train" if split == "pretrain" else split
    shapes, weights = [c for c, _ in layouts], [w for _, w in layouts]
    if split == "pretrain":
        alone = sum(w for c, w in layouts if c == (1,))
        rest = sum(weights) - alone
        weights = [_ALONE_IN_PRETRAINING if c == (1,) else w * (1 - _ALONE_IN_PRETRAINING) / rest for c, w in layouts]
    backgrounds = list(BACKGROUNDS)
    misses = 0
    while True:
        counts = rng.choices(shapes, weights)[0]
        names = tuple(rng.sample(lexicon.names, len(counts)))
        background = rng.choice(backgrounds)
        if compositions.split(names, counts[0], background) != wanted:
            misses += 1
            if misses > _ATTEMPTS:
                raise LexiconError(f"{split}: {len(lexicon)} sprites are too few to keep compositions apart by split")
            continue
        misses = 0
        base = Scene(background, rng.choice(("x", "y")), ())
        yield _place(names, counts, _sizes(counts, rng), base, lexicon, side, rng)


def _sizes(counts: tuple[int, ...], rng: Random) -> tuple[Size, ...]:
    if len(counts) == 1:
        # Sizes of things alone are said more often: half of them are small or large.
        choices: tuple[Size, ...] = ("small", "large", "normal", "normal")
        return (rng.choice(choices) if counts[0] == 1 else "normal",)
    if len(counts) > 2:
        return tuple("normal" for _ in counts)
    sizes: list[Size] = [
        rng.choices(("normal", "small", "large"), (0.7, 0.15, 0.15))[0] if count == 1 else "normal" for count in counts
    ]
    return tuple(sizes)


def _place(
    names: tuple[str, ...],
    counts: tuple[int, ...],
    sizes: tuple[Size, ...],
    base: Scene,
    lexicon: Lexicon,
    side: int,
    rng: Random,
) -> Scene:
    """Give every sprite its box: a cell per group along the axis, a slot per sprite across it."""
    groups = []
    shift = rng.uniform(-0.12, 0.12) * side  # of the whole row or column, across the axis
    cell = side / len(names)
    for index, (name, count, size) in enumerate(zip(names, counts, sizes, strict=True)):
        boxes = []
        for slot in range(count):
            alone = len(names) == 1
            longest = (_ALONE if alone and count == 1 else _AMONG)[size] * side
            # Things of one kind stand in a row along the axis when alone, across it when beside others.
            along, start = (cell / count, cell / count * slot) if alone else (cell, cell * index)
            across = side if alone else side / count
            longest = min(longest, along - 1, across - 1)
            picture = lexicon[name].image
            scale = longest / max(picture.size)
            width, height = (max(1, round(v * scale)) for v in picture.size)
            u, v = (width, height) if base.axis == "x" else (height, width)
            a = start + rng.uniform(0, 1) * (along - u)
            middle = across * (0 if alone else slot) + (across - v) / 2
            wobble = side * (0.2 if alone else 0.06 if count == 1 else 0.02)
            b = middle + (shift if count == 1 or alone else 0) + rng.uniform(-wobble, wobble)
            a, b = (int(min(max(round(p), 0), side - q)) for p, q in ((a, u), (b, v)))
            boxes.append((a, b, width, height) if base.axis == "x" else (b, a, width, height))
        groups.append(Group(name, count, size, tuple(boxes)))
    return Scene(base.background, base.axis, tuple(groups))
