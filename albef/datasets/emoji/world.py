"""Scenes of all splits, their images and their scene records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

from albef.config import EmojiConfig
from albef.data.files import format_rows
from albef.datasets.emoji import lexicon as lexicons
from albef.datasets.emoji.lexicon import Lexicon
from albef.datasets.emoji.render import Renderer
from albef.datasets.emoji.scenes import Scene, draw
from albef.progress import Progress

Rows = list[Any]
SPLITS = ("pretrain", "train", "val", "test")


@dataclass(frozen=True)
class World:
    """Scenes of every split, with the paths of their images."""

    lexicon: Lexicon
    seed: int
    scenes: dict[str, list[Scene]]

    def images(self, split: str) -> list[str]:
        """Return the image paths of a split, in scene order."""
        return [f"images/{split}/{i:06d}.png" for i in range(len(self.scenes[split]))]

    def rng(self, *parts: str) -> Random:
        """Return the random generator of a list, independent of other lists."""
        return Random("/".join((str(self.seed), *parts)))


def create(config: EmojiConfig, folder: Path, seed: int) -> World:
    """Draw all scenes.

    Args:
        folder: Folder of the sprites, see `albef.datasets.emoji.lexicon.load`.

    Raises:
        LexiconError: If a sprite is unreadable or there are too few.
    """
    lexicon = lexicons.load(folder)
    numbers = {"pretrain": config.pretrain, "train": config.train, "val": config.val, "test": config.test}
    side, max_objects = config.image_size, config.max_objects
    return World(
        lexicon,
        seed,
        {s: draw(s, n, lexicon=lexicon, side=side, max_objects=max_objects, seed=seed) for s, n in numbers.items()},
    )


def render(world: World, side: int) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the PNG file of every scene, sorted by path."""
    renderer = Renderer(world.lexicon, side)
    scenes = [pair for split in SPLITS for pair in zip(world.images(split), world.scenes[split], strict=True)]
    scenes.sort(key=itemgetter(0))
    for path, scene in Progress(scenes, description="render", unit="images"):
        yield path, renderer.png(scene)


def scene_records(world: World) -> str:
    """Return the content of ``scenes.json``: all scenes by split, one per line."""
    parts = []
    for split in SPLITS:
        records = [s.record(i) for i, s in zip(world.images(split), world.scenes[split], strict=True)]
        parts.append(f'"{split}": {format_rows(records).rstrip()}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
