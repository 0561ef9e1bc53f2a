"""The `prepare` stage: converts raw data to tables of records and images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from albef.config import ConfigError, EmojiConfig, PairsConfig, PrepareConfig, StreamConfig
from albef.data import shards
from albef.data.files import new_folder
from albef.data.shards import ShardSample
from albef.data.stream import StreamSource, StreamSpec, key_of
from albef.datasets import official_lists, pairs, tables
from albef.datasets.emoji import lists as emoji_lists
from albef.datasets.emoji import world as worlds
from albef.io import write_file


def run(config: PrepareConfig, raw: Path, out: Path, work_dir: Path | None = None) -> None:
    """Write the data set.

    Args:
        raw: Raw data: the folder of sprites for the emoji data set, or of official lists and their images.
        out: Folder to write; an existing one is replaced once the new one is complete.
        work_dir: Folder for images of lists and of folders until all are written, from which an interrupted run goes
            on; by default beside ``out``.

    Raises:
        LexiconError: If a sprite is unreadable or there are too few.
        SchemaError: If an official list is missing or not a JSON list, or a source of pairs cannot be read.
        ConfigError: If a value is out of range, or the section of the source is missing.
    """
    config.check()
    with new_folder(out) as folder:
        work = (work_dir or out.parent) / f"prepare-{hashlib.sha256(bytes(out.resolve())).hexdigest()[:16]}"
        if config.lists is not None and config.source == "lists":
            manifest = official_lists.convert(config.lists, raw, folder, config.max_side, work)
        elif config.pairs is not None and config.stream is not None and config.source == "stream":
            manifest = _stream(config, config.pairs, config.stream, raw, folder)
        elif config.pairs is not None and config.source == "pairs":
            manifest = pairs.convert(config.pairs, raw, folder, config.max_side, work)
        else:
            manifest = _emoji(config, raw, folder)
        write_file(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def _stream(config: PrepareConfig, columns: PairsConfig, stream: StreamConfig, raw: Path, out: Path) -> dict[str, Any]:
    """Prepare the first pairs of each source; training reads all of them itself."""
    names, sources = list[str](), list[StreamSource]()
    for pattern, rows in config.stream_sources().items():
        found = shards.expand(pattern, raw)
        sources.append(StreamSource(pattern, len(names), len(found), rows))
        names += found
    shares = np.diff(np.linspace(0, stream.sample, len(sources) + 1).astype(int))
    samples = chain.from_iterable(
        islice(_samples(columns, names[source.first : source.first + source.shards]), int(share))
        for source, share in zip(sources, shares, strict=True)
    )
    first = (
        pairs.Pair(key_of(shard, sample), f"{number:09}{sample.suffix}", sample.image, sample.captions)
        for number, (shard, sample) in enumerate(samples)
    )
    manifest = pairs.write(columns, first, out, config.max_side)
    spec = StreamSpec(
        shards=names,
        rows=stream.rows,
        open_shards=stream.open_shards,
        window=stream.window,
        image=columns.image,
        caption=columns.caption,
        held_out=columns.val + columns.test,
        sources=[asdict(source) for source in sources],
    )
    return {**manifest, "source": "stream", "stream": asdict(spec)}


def _samples(config: PairsConfig, names: list[str]) -> Iterator[tuple[str, ShardSample]]:
    for shard in names:
        for sample in shards.read(shard, image=config.image, caption=config.caption):
            yield shard, sample


def _check(config: EmojiConfig) -> None:
    minimum = {"image_size": 32, "pretrain": 1, "train": 1, "val": 1, "test": 1, "max_objects": 2, "caption_noise": 0}
    maximum = {"max_objects": 4, "caption_noise": 1}  # scene layouts have up to four objects
    for key, low in minimum.items():
        value, high = getattr(config, key), maximum.get(key)
        if value < low or (high is not None and value > high):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            raise ConfigError(f"prepare.emoji.{key}: expected {expected}, got {value}")


def _emoji(config: PrepareConfig, raw: Path, out: Path) -> dict[str, Any]:
    assert config.emoji is not None
    _check(config.emoji)
    world = worlds.create(config.emoji, raw, config.seed)
    lists = emoji_lists.make(world, config.emoji)
    entries = tables.write(out, lists, worlds.render(world, config.emoji.image_size))
    write_file(out / "scenes.json", worlds.scene_records(world))
    return {"source": "emoji", "seed": config.seed, **entries}
