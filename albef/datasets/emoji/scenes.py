"""Random scenes: groups of sprites along one axis, on a background.

Scenes depend only on the seed. Changing the strings that seed generators changes the data set.
"""

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

# Number of sprites in each group of a scene, with sampling weights.
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
# Half of the pretraining images show a single object: these teach names, the others teach relations.
_SINGLE_OBJECT_FRACTION = 0.5
# Longest side of a sprite as a fraction of the image side, for a single object and for one of several.
_SINGLE_SIZES = {"small": 0.28, "normal": 0.47, "large": 0.72}
_GROUP_SIZES = {"small": 0.3, "normal": 0.42, "large": 0.5}
_HELD_OUT = 0.1  # fraction of all compositions held out for test, and as many for val
_SWAPPED = 0.15  # fraction of two-object evaluation scenes followed by a copy with the objects swapped
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
    """Content of one image.

    ``groups`` are ordered left to right (axis ``x``) or top to bottom (axis ``y``).
    """

    background: str
    axis: Literal["x", "y"]
    groups: tuple[Group, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the objects in the image."""
        return frozenset(g.name for g in self.groups)

    @property
    def total(self) -> int:
        """Number of sprites in the image."""
        return sum(g.count for g in self.groups)

    def count(self, name: str) -> int:
        """Return the number of sprites of this name."""
        return sum(g.count for g in self.groups if g.name == name)

    @property
    def key(self) -> tuple[Any, ...]:
        """Content of a full caption; scenes with equal keys share it."""
        axis = self.axis if len(self.groups) > 1 else ""
        return self.background, axis, tuple((g.name, g.count) for g in self.groups)

    def record(self, image: str) -> dict[str, Any]:
        """Return the scene as stored in ``scenes.json``."""
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
    """Assignment of compositions to splits by hash, disjoint between splits.

    Any two names in an image form a composition. The name of a single group forms one with its count and background.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._cache: dict[tuple[str, ...], str] = {}

    def split_of(self, *parts: str) -> str:
        """Return ``train``, ``val`` or ``test``."""
        split = self._cache.get(parts)
        if split is None:
            digest = hashlib.blake2b("|".join((str(self.seed), *parts)).encode(), digest_size=8).digest()
            position = int.from_bytes(digest, "big") / 2**64
            split = "test" if position < _HELD_OUT else "val" if position < 2 * _HELD_OUT else "train"
            self._cache[parts] = split
        return split

    def pair_split(self, first: str, second: str) -> str:
        """Return the split of two names in one image."""
        return self.split_of(*sorted((first, second)))

    def scene_split(self, names: tuple[str, ...], count: int, background: str) -> str | None:
        """Return the split of an image.

        The result is None if the image mixes compositions of val and test.
        """
        if len(names) == 1:
            return self.split_of(names[0], str(count), background)
        splits = {self.pair_split(a, b) for a, b in combinations(names, 2)} - {"train"}
        return "train" if not splits else splits.pop() if len(splits) == 1 else None


def draw(split: str, number: int, *, lexicon: Lexicon, side: int, max_objects: int, seed: int) -> list[Scene]:
    """Draw the scenes of a split.

    Args:
        split: ``pretrain`` and ``train`` hold the compositions of training. In ``val`` and ``test`` full descriptions
            are unique, and no image contains all objects of another image on the same background, except for copies
            with the objects swapped.
        number: Number of scenes.
        side: Pixels per side of the image.

    Raises:
        LexiconError: If there are too few sprites for ``number`` distinct scenes.
    """
    layouts = [
        (counts, weight) for counts, weight in _LAYOUTS if sum(counts) <= max_objects and len(counts) <= len(lexicon)
    ]
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
            raise LexiconError(f"{split}: {len(lexicon)} sprites are too few for {number} distinct scenes")
        names, previous = scene.names, seen[scene.background]
        if any(names <= other or other <= names for other in previous):
            continue
        previous.append(names)
        scenes.append(scene)
        # The same two objects swapped: only the relation distinguishes the two images.
        if len(scene.groups) == 2 and len(scenes) < number and rng.random() < _SWAPPED:
            first, second = scene.groups
            counts, sizes = (second.count, first.count), (second.size, first.size)
            scenes.append(_arrange((second.name, first.name), counts, sizes, scene, lexicon, side, rng))
    return scenes


def _candidates(
    split: str, lexicon: Lexicon, layouts: list[tuple[tuple[int, ...], float]], side: int, seed: int
) -> Iterator[Scene]:
    """Yield endless scenes whose compositions belong to ``split``."""
    rng = Random(f"{seed}/{split}/scenes")
    compositions = Compositions(seed)
    target = "train" if split == "pretrain" else split
    choices, weights = [counts for counts, _ in layouts], [weight for _, weight in layouts]
    if split == "pretrain":
        single = sum(weight for counts, weight in layouts if counts == (1,))
        rest = sum(weights) - single
        weights = [
            _SINGLE_OBJECT_FRACTION if counts == (1,) else weight * (1 - _SINGLE_OBJECT_FRACTION) / rest
            for counts, weight in layouts
        ]
    backgrounds = list(BACKGROUNDS)
    misses = 0
    while True:
        counts = rng.choices(choices, weights)[0]
        names = tuple(rng.sample(lexicon.names, len(counts)))
        background = rng.choice(backgrounds)
        if compositions.scene_split(names, counts[0], background) != target:
            misses += 1
            if misses > _ATTEMPTS:
                raise LexiconError(f"{split}: {len(lexicon)} sprites are too few for disjoint compositions per split")
            continue
        misses = 0
        base = Scene(background, rng.choice(("x", "y")), ())
        yield _arrange(names, counts, _sizes(counts, rng), base, lexicon, side, rng)


def _sizes(counts: tuple[int, ...], rng: Random) -> tuple[Size, ...]:
    if len(counts) == 1:
        # Captions mention sizes of single objects, so half of these are small or large.
        choices: tuple[Size, ...] = ("small", "large", "normal", "normal")
        return (rng.choice(choices) if counts[0] == 1 else "normal",)
    if len(counts) > 2:
        return tuple("normal" for _ in counts)
    sizes: list[Size] = [
        rng.choices(("normal", "small", "large"), (0.7, 0.15, 0.15))[0] if count == 1 else "normal" for count in counts
    ]
    return tuple(sizes)


def _arrange(
    names: tuple[str, ...],
    counts: tuple[int, ...],
    sizes: tuple[Size, ...],
    base: Scene,
    lexicon: Lexicon,
    side: int,
    rng: Random,
) -> Scene:
    """Return the scene with a box for every sprite.

    Every group gets a cell along the axis and every sprite of it a slot across the axis.
    """
    groups = []
    shift = rng.uniform(-0.12, 0.12) * side  # offset of the whole row or column across the axis
    cell = side / len(names)
    for index, (name, count, size) in enumerate(zip(names, counts, sizes, strict=True)):
        boxes = []
        for slot in range(count):
            only = len(names) == 1
            longest = (_SINGLE_SIZES if only and count == 1 else _GROUP_SIZES)[size] * side
            # Sprites of an only group are arranged along the axis, those of one among several groups across it.
            along, start = (cell / count, cell / count * slot) if only else (cell, cell * index)
            across = side if only else side / count
            longest = min(longest, along - 1, across - 1)
            sprite = lexicon[name].image
            scale = longest / max(sprite.size)
            width, height = (max(1, round(v * scale)) for v in sprite.size)
            u, v = (width, height) if base.axis == "x" else (height, width)
            a = start + rng.uniform(0, 1) * (along - u)
            middle = across * (0 if only else slot) + (across - v) / 2
            jitter = side * (0.2 if only else 0.06 if count == 1 else 0.02)
            b = middle + (shift if count == 1 or only else 0) + rng.uniform(-jitter, jitter)
            a, b = (int(min(max(round(p), 0), side - q)) for p, q in ((a, u), (b, v)))
            boxes.append((a, b, width, height) if base.axis == "x" else (b, a, width, height))
        groups.append(Group(name, count, size, tuple(boxes)))
    return Scene(base.background, base.axis, tuple(groups))
