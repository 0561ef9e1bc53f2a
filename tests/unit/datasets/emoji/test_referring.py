from __future__ import annotations

import re
from random import Random

from albef.datasets.emoji.captions import ENDS, RELATIONS
from albef.datasets.emoji.lists import grounding
from albef.datasets.emoji.referring import proposals, refer
from albef.datasets.emoji.scenes import Box, Scene
from albef.datasets.emoji.world import World

SIDE = 64


def meant(text: str, scene: Scene, world: World) -> list[Box]:
    """Every box an expression may mean, by the scene record."""
    lexicon = world.lexicon
    boxes = [(g, b) for g in scene.groups for b in g.boxes]
    at = 0 if scene.axis == "x" else 1
    for last, end in enumerate(ENDS[scene.axis]):
        edge = {"x": ("leftmost", "rightmost"), "y": ("topmost", "bottommost")}[scene.axis][last]
        if text.endswith(f" {end}") or f" {edge} " in text:
            name = text.removeprefix("the ").removesuffix(f" {end}").removeprefix(f"{edge} ")
            found = [b for g, b in boxes if g.name == name]
            return [sorted(found, key=lambda b: b[at] + b[at + 2] / 2)[-1 if last else 0]]
    for direction, phrases in enumerate(RELATIONS[scene.axis]):
        for phrase in sorted(phrases, key=len, reverse=True):
            if match := re.fullmatch(rf"the (.*?) {phrase} the (.*)", text):
                other = next(i for i, g in enumerate(scene.groups) if match[2] in (g.name, lexicon[g.name].plural))
                beyond = scene.groups[:other] if direction == 0 else scene.groups[other + 1 :]
                return [b for g in beyond if match[1] in ("thing", g.name) for b in g.boxes]
    name = re.sub(r"^the (?:small |little |large |big )?", "", text)
    return [b for g, b in boxes if g.name == name]


def iou(a: Box, b: Box) -> float:
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def test_expressions_mean_one_box(world: World) -> None:
    rng = Random(4)
    seen = 0
    for scene in world.scenes["train"]:
        found = refer(scene, world.lexicon, rng)
        if found is None:
            assert scene.total == 1 or min(g.count for g in scene.groups) > 1
            continue
        assert meant(found[0], scene, world) == [found[1]], (found, scene)
        seen += 1
    assert seen > 0.75 * len(world.scenes["train"])


def test_proposals_hold_the_truth_and_distractors(world: World) -> None:
    rng = Random(4)
    for scene in (s for s in world.scenes["test"] if s.total > 1):
        found = proposals(scene, SIDE, rng)
        true = [b for g in scene.groups for b in g.boxes]
        assert len(found) >= 6
        assert all(b in found for b in true)
        assert all(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= SIDE and y + h <= SIDE for x, y, w, h in found)
        # Picking any box must not do.
        assert sum(iou(b, true[0]) >= 0.5 for b in found) <= len(found) / 2


def test_rows_and_boxes_belong_together(world: World) -> None:
    boxes: dict = {"refs": {}, "proposals": {}}
    rows = {split: grounding(world, split, boxes, SIDE) for split in ("train", "val", "test")}
    assert all("ref_id" not in r for r in rows["train"])
    ids = [r["ref_id"] for s in ("val", "test") for r in rows[s]]
    assert sorted(map(str, ids)) == sorted(boxes["refs"])
    for row in rows["val"] + rows["test"]:
        assert boxes["refs"][str(row["ref_id"])]["image"] == row["image"]
        assert boxes["refs"][str(row["ref_id"])]["box"] in boxes["proposals"][row["image"]]
