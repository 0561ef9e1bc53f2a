"""Writes the built-in world as pictures and official ALBEF lists."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from albef.config import EmojiConfig
from albef.data.files import rows
from albef.datasets.emoji import lexicon as lexicons
from albef.datasets.emoji.lexicon import Lexicon
from albef.datasets.emoji.render import Painter
from albef.datasets.emoji.scenes import Scene, draw

Rows = list[Any]
SPLITS = ("pretrain", "train", "val", "test")


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
        folder: The sprites, see `albef.datasets.emoji.lexicon.load`.

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
