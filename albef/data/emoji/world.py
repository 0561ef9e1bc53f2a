"""Writes the built-in world as pictures and official ALBEF lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from albef.config import EmojiConfig
from albef.data.emoji import lexicon as lexicons
from albef.data.emoji.captions import Captioner
from albef.data.emoji.lexicon import Lexicon
from albef.data.emoji.render import Painter
from albef.data.emoji.scenes import Scene, draw
from albef.data.files import rows, write_text

Rows = list[Any]
SPLITS = ("pretrain", "train", "val", "test")

_PARTIAL = 0.25  # share of pretraining captions that leave something out
_PARTIAL_TRAIN = 0.1
_SYNONYMS = 0.1
_TRAIN_CAPTIONS = 2  # rows an image in retrieval_train


@dataclass(frozen=True)
class World:
    """The scenes of every split with the paths of their pictures."""

    lexicon: Lexicon
    seed: int
    scenes: dict[str, list[Scene]]

    def images(self, split: str) -> list[str]:
        """Paths below the image root, in the order of the scenes."""
        return [f"images/{split}/{i:06d}.png" for i in range(len(self.scenes[split]))]

    def rng(self, *parts: str) -> Random:
        """A generator of its own for each list, so that one list never shifts another."""
        return Random("/".join((str(self.seed), *parts)))


def create(config: EmojiConfig, folder: Path, seed: int) -> World:
    """Draw all scenes.

    Args:
        folder: The sprites, see `albef.data.emoji.lexicon.load`.

    Raises:
        LexiconError: If the sprites are broken or too few.
    """
    lexicon = lexicons.load(folder)
    numbers = {"pretrain": config.pretrain, "train": config.train, "val": config.val, "test": config.test}
    side, most = config.image_size, config.max_objects
    return World(
        lexicon,
        seed,
        {s: draw(s, n, lexicon=lexicon, side=side, max_objects=most, seed=seed) for s, n in numbers.items()},
    )


def pretrain(world: World, noise: float) -> Rows:
    """One record an image with one to three captions, a share ``noise`` of them wrong."""
    rng = world.rng("pretrain", "captions")
    spoiler = world.rng("pretrain", "noise")
    captioner = Captioner(world.lexicon, _SYNONYMS)
    texts = [
        [captioner.any(scene, rng, _PARTIAL) for _ in range(rng.randint(1, 3))] for scene in world.scenes["pretrain"]
    ]
    others = [captions[0] for captions in texts]
    result = []
    for image, captions in zip(world.images("pretrain"), texts, strict=True):
        # Two draws a caption whatever happens: another share of noise leaves the other captions as they are.
        heard = []
        for caption in captions:
            own = Random(spoiler.getrandbits(64))
            heard.append(captioner.noisy(caption, others, own) if spoiler.random() < noise else caption)
        result.append({"image": image, "caption": heard})
    return result


def retrieval(world: World, split: str) -> Rows:
    """Train: one row a caption. Val and test: one row an image, its only caption describing all of it."""
    rng = world.rng("retrieval", split)
    pairs = zip(world.images(split), world.scenes[split], strict=True)
    if split != "train":
        captioner = Captioner(world.lexicon)
        return [{"image": image, "caption": [captioner.full(scene, rng)]} for image, scene in pairs]
    captioner = Captioner(world.lexicon, _SYNONYMS)
    return [
        {"image": image, "caption": captioner.any(scene, rng, _PARTIAL_TRAIN), "image_id": number}
        for number, (image, scene) in enumerate(pairs)
        for _ in range(_TRAIN_CAPTIONS)
    ]


def lists(world: World, config: EmojiConfig) -> dict[str, Rows]:
    """Every list of the world by name."""
    result: dict[str, Rows] = {"pretrain": pretrain(world, config.caption_noise)}
    makers: dict[str, Callable[[World, str], Rows]] = {"retrieval": retrieval}
    for name, maker in makers.items():
        for split in SPLITS[1:]:
            result[f"{name}_{split}"] = maker(world, split)
    return result


def write_images(world: World, out: Path, side: int) -> dict[str, str]:
    """Paint every scene below ``out``.

    Returns:
        SHA-256 over the bytes of all pictures, by split.
    """
    painter = Painter(world.lexicon, side)
    digests = {}
    total = sum(len(s) for s in world.scenes.values())
    with tqdm(total=total, desc="paint", unit="image", disable=None) as progress:
        for split in SPLITS:
            digest = hashlib.sha256()
            (out / "images" / split).mkdir(parents=True)
            for image, scene in zip(world.images(split), world.scenes[split], strict=True):
                data = painter.png(scene)
                digest.update(data)
                (out / image).write_bytes(data)
                progress.update()
            digests[split] = digest.hexdigest()
    return digests


def scene_records(world: World) -> str:
    """``scenes.json``: all scenes by split, one a line."""
    parts = []
    for split in SPLITS:
        records = [s.record(i) for i, s in zip(world.images(split), world.scenes[split], strict=True)]
        parts.append(f'"{split}": {rows(records).rstrip()}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write_lists(named: dict[str, Rows], out: Path) -> dict[str, dict[str, Any]]:
    """Write the lists.

    Returns:
        Row count and SHA-256 by list name.
    """
    entries: dict[str, dict[str, Any]] = {}
    for name, records in named.items():
        text = rows(records)
        write_text(out / f"{name}.json", text)
        entries[name] = {"rows": _size(records), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return entries


def _size(records: Sequence[Any]) -> int:
    return len(records)
