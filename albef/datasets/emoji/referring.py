"""Grounding: expressions that refer to one thing of a picture, its true box, and the proposals of a poor detector."""

from __future__ import annotations

from random import Random

from albef.datasets.emoji.captions import ENDS, RELATIONS
from albef.datasets.emoji.lexicon import Lexicon
from albef.datasets.emoji.scenes import Box, Group, Scene

_PROPOSALS = 8  # at least
_EDGES = {"x": ("leftmost", "rightmost"), "y": ("topmost", "bottommost")}
_WORDS = {"small": ("small", "little"), "large": ("large", "big")}


def refer(scene: Scene, lexicon: Lexicon, rng: Random) -> tuple[str, Box] | None:
    """An expression with the box it means; None for a picture of one thing, where any box would do."""
    if scene.total == 1:
        return None
    if len(scene.groups) == 1:
        group = scene.groups[0]
        last = rng.randrange(2)
        start = ENDS[scene.axis][last]
        text = rng.choice((f"the {_EDGES[scene.axis][last]} {group.name}", f"the {group.name} {start}"))
        return text, group.boxes[-1 if last else 0]
    singles = [i for i, g in enumerate(scene.groups) if g.count == 1]
    if not singles:
        return None
    at = rng.choice(singles)
    group = scene.groups[at]
    return _describe(scene, at, lexicon, rng), group.boxes[0]


def _describe(scene: Scene, at: int, lexicon: Lexicon, rng: Random) -> str:
    group = scene.groups[at]
    kind = rng.randrange(4)
    name = f"the {group.name}"
    if kind == 0:
        return name if group.size == "normal" else f"the {rng.choice(_WORDS[group.size])} {group.name}"
    if kind == 1 and at in (0, len(scene.groups) - 1):
        return f"{name} {ENDS[scene.axis][0 if at == 0 else 1]}"
    beside = at + 1 if at + 1 < len(scene.groups) else at - 1
    relation = rng.choice(RELATIONS[scene.axis][0 if beside > at else 1])
    other = _the(scene.groups[beside], lexicon)
    # Of three things, "the thing left of the bus" may mean two.
    thing = "the thing" if kind == 3 and len(scene.groups) == 2 else name
    return f"{thing} {relation} {other}"


def _the(group: Group, lexicon: Lexicon) -> str:
    return f"the {group.name if group.count == 1 else lexicon[group.name].plural}"


def proposals(scene: Scene, side: int, rng: Random) -> list[Box]:
    """Every true box, a shifted and rescaled copy of each, and boxes of nothing; at least eight, shuffled."""
    boxes = [box for group in scene.groups for box in group.boxes]
    found = [*boxes, *(_jitter(box, side, rng) for box in boxes)]
    while len(found) < _PROPOSALS:
        found.append(_jitter(rng.choice(boxes), side, rng, reach=1.5))
    rng.shuffle(found)
    return found


def _jitter(box: Box, side: int, rng: Random, reach: float = 0.25) -> Box:
    x, y, width, height = box
    width = min(max(4, round(width * rng.uniform(0.7, 1.4))), side)
    height = min(max(4, round(height * rng.uniform(0.7, 1.4))), side)
    x = round(x + rng.uniform(-reach, reach) * width)
    y = round(y + rng.uniform(-reach, reach) * height)
    return min(max(x, 0), side - width), min(max(y, 0), side - height), width, height
