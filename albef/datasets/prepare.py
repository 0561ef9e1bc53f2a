"""The `prepare` stage: raw data in, official lists and pictures out."""

from __future__ import annotations

import json
from pathlib import Path

from albef.config import ConfigError, EmojiConfig, PrepareConfig
from albef.data.files import new_folder, write_list, write_text
from albef.datasets import official_lists
from albef.datasets.emoji import lists as emoji_lists
from albef.datasets.emoji import world as worlds


def run(config: PrepareConfig, raw: Path, out: Path) -> None:
    """Write the data set.

    Args:
        raw: The raw data: the folder of sprites for the built-in world, or of official lists and their pictures.
        out: Folder to write; an old one is replaced once the new one is whole.

    Raises:
        LexiconError: If the sprites are broken or too few.
        SchemaError: If an official list is missing or no JSON list.
        ConfigError: If a value is out of range, or the source is ``lists`` and none are configured.
    """
    if config.source == "lists" and config.lists is None:
        raise ConfigError("prepare.lists: missing key; expected image_root and files for the source 'lists'")
    with new_folder(out) as aside:
        if config.lists is not None and config.source == "lists":
            official_lists.convert(config.lists, raw, aside, out)
        else:
            _emoji(config, raw, aside)


def _check(config: EmojiConfig) -> None:
    low = {"image_size": 32, "pretrain": 1, "train": 1, "val": 1, "test": 1, "max_objects": 2, "caption_noise": 0}
    high = {"max_objects": 4, "caption_noise": 1}  # layouts are drawn for up to four things
    for key, least in low.items():
        value, most = getattr(config, key), high.get(key)
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            raise ConfigError(f"prepare.emoji.{key}: expected {wanted}, got {value}")


def _emoji(config: PrepareConfig, raw: Path, out: Path) -> None:
    _check(config.emoji)
    world = worlds.create(config.emoji, raw, config.seed)
    manifest = {
        "source": "emoji",
        "seed": config.seed,
        "image_root": ".",
        "lists": {
            name: write_list(out / f"{name}.json", records)
            for name, records in emoji_lists.make(world, config.emoji).items()
        },
        "images": {
            split: {"count": len(world.scenes[split]), "sha256": digest}
            for split, digest in worlds.write_images(world, out, config.emoji.image_size).items()
        },
    }
    write_text(out / "scenes.json", worlds.scene_records(world))
    write_text(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
