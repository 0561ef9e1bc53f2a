from __future__ import annotations

import re
from collections import Counter
from random import Random

from albef.datasets.emoji.captions import ENDS, NUMBERS, RELATIONS, Captioner
from albef.datasets.emoji.lexicon import BACKGROUNDS
from albef.datasets.emoji.lists import pretrain, retrieval
from albef.datasets.emoji.scenes import Scene
from albef.datasets.emoji.world import World

FORWARD = {axis: words[0] for axis, words in RELATIONS.items()}
BACKWARD = {axis: words[1] for axis, words in RELATIONS.items()}


def positions(scene: Scene, world: World, text: str) -> list[int]:
    """Return the position of each group's name in a caption, or -1."""
    found = []
    for group in scene.groups:
        sprite = world.lexicon[group.name]
        match = re.search(rf"\b{sprite.name if group.count == 1 else sprite.plural}\b", text)
        found.append(match.start() if match else -1)
    return found


def test_full_captions_tell_everything(world: World) -> None:
    rng = Random(1)
    captioner = Captioner(world.lexicon)
    for scene in world.scenes["test"]:
        text = captioner.full(scene, rng)
        at = positions(scene, world, text)
        assert min(at) >= 0, text
        paper = BACKGROUNDS[scene.background]
        assert re.search(rf"\b{paper.color} (background|{paper.pattern}|{paper.pattern[:3]}\w+ background)", text), text
        for group in scene.groups:
            if group.count > 2:
                assert NUMBERS[group.count] in text
        if len(scene.groups) == 2:
            # "A left of B", "B right of A" and "A on the left and B on the right" all mean the same.
            first_named = at[0] < at[1]
            words = FORWARD[scene.axis] if first_named else BACKWARD[scene.axis]
            wrong = BACKWARD[scene.axis] if first_named else FORWARD[scene.axis]
            plain = any(f" {w} " in text for w in words) and not any(f" {w} " in text for w in wrong)
            ends = all(e in text for e in ENDS[scene.axis]) and first_named
            assert plain or ends, text


def test_captions_vary(world: World) -> None:
    rng = Random(1)
    scene = next(s for s in world.scenes["test"] if len(s.groups) == 2)
    captioner = Captioner(world.lexicon)
    assert len({captioner.full(scene, rng) for _ in range(200)}) > 30
    assert len({captioner.partial(scene, rng) for _ in range(200)}) > 30


def test_captions_are_short_sentences_with_right_articles(world: World) -> None:
    texts = [c for r in pretrain(world, 0.0) for c in r["caption"]]
    words = Counter(len(t.split()) for t in texts)
    assert max(words) <= 24
    assert sum(n for k, n in words.items() if 5 <= k <= 18) / sum(words.values()) > 0.85
    wrong = re.compile(r"\b(a [aeiou]|an [^aeiou])")
    assert [t for t in texts if wrong.search(t)] == []
    assert all(t == " ".join(t.split()) and t == t.lower() for t in texts)


def test_noise_spoils_its_share_and_nothing_else(world: World) -> None:
    clean = [c for r in pretrain(world, 0.0) for c in r["caption"]]
    noisy = [c for r in pretrain(world, 0.2) for c in r["caption"]]
    assert len(clean) == len(noisy)
    share = sum(a != b for a, b in zip(clean, noisy, strict=True)) / len(clean)
    assert 0.15 < share < 0.22
    assert [c for r in pretrain(world, 1.0) for c in r["caption"]] != clean


def test_retrieval_rows(world: World) -> None:
    train, test = retrieval(world, "train"), retrieval(world, "test")
    assert len(train) == 2 * len(world.scenes["train"])
    images: dict[int, set[str]] = {}
    for row in train:
        images.setdefault(row["image_id"], set()).add(row["image"])
    assert all(len(paths) == 1 for paths in images.values())
    captions = [c for r in test for c in r["caption"]]
    assert len(set(captions)) == len(captions) == len(world.scenes["test"])
    # Captions that omit things of a larger scene may read like captions of a single thing; no others may.
    several = {r["caption"][0] for r, s in zip(test, world.scenes["test"], strict=True) if len(s.groups) > 1}
    assert len(several) > 100
    assert not several & {r["caption"] for r in train}
