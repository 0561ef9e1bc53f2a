"""Referring expressions for grounding, with true boxes and noisy detector proposals."""

from __future__ import annotations

from random import Random

from albef.datasets.emoji.captions import ENDS, RELATIONS
from albef.datasets.emoji.lexicon import Lexicon
from albef.datasets.emoji.scenes import Box, Group, Scene

_MIN_PROPOSALS = 8
_EDGES = {"x": ("leftmost", "rightmost"), "y": ("topmost", "bottommost")}
_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}


def refer(scene: Scene, lexicon: Lexicon, rng: Random) -> tuple[str, Box] | None:
    """Return a referring expression and its box.

    The result is None if no object can be referred to. Images of a single sprite are excluded, as any box would be
    right.
    """
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
        return name if group.size == "normal" else f"the {rng.choice(_SIZE_WORDS[group.size])} {group.name}"
    if kind == 1 and at in (0, len(scene.groups) - 1):
        return f"{name} {ENDS[scene.axis][0 if at == 0 else 1]}"
    beside = at + 1 if at + 1 < len(scene.groups) else at - 1
    relation = rng.choice(RELATIONS[scene.axis][0 if beside > at else 1])
    other = _the(scene.groups[beside], lexicon)
    # With three objects, "the thing left of the bus" can be ambiguous.
    subject = "the thing" if kind == 3 and len(scene.groups) == 2 else name
    return f"{subject} {relation} {other}"


def _the(group: Group, lexicon: Lexicon) -> str:
    return f"the {group.name if group.count == 1 else lexicon[group.name].plural}"


def proposals(scene: Scene, side: int, rng: Random) -> list[Box]:
    """Return proposals in random order, at least eight.

    They are all true boxes, a shifted and rescaled copy of each, and boxes of background.
    """
    boxes = [box for group in scene.groups for box in group.boxes]
    result = [*boxes, *(_jitter(box, side, rng) for box in boxes)]
    while len(result) < _MIN_PROPOSALS:
        result.append(_jitter(rng.choice(boxes), side, rng, max_shift=1.5))
    rng.shuffle(result)
    return result


def _jitter(box: Box, side: int, rng: Random, max_shift: float = 0.25) -> Box:
    x, y, width, height = box
    width = min(max(4, round(width * rng.uniform(0.7, 1.4))), side)
    height = min(max(4, round(height * rng.uniform(0.7, 1.4))), side)
    x = round(x + rng.uniform(-max_shift, max_shift) * width)
    y = round(y + rng.uniform(-max_shift, max_shift) * height)
    return min(max(x, 0), side - width), min(max(y, 0), side - height), width, height
