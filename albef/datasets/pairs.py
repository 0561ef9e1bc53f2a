"""Image-text pairs of common sources, as tables.

Sources are a folder of images with captions, WebDataset and Parquet files as img2dataset writes them, and data sets of
the Hugging Face hub.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.config import PairsConfig
from albef.data.images import ImageError, read_bytes
from albef.data.lists import IMAGE_FOLDER
from albef.data.schema import SchemaError
from albef.data.shards import ShardSample, place_of
from albef.datasets import image_parts, photo_folder, shards, tables
from albef.progress import Progress


@dataclass(frozen=True)
class Pair:
    """An image and its captions.

    Args:
        key: Identity of the image in the source, which decides its split.
        path: Path in the lists.
        image: Encoded bytes; None if there are none.
        captions: None of them empty in good data.
    """

    key: str
    path: str
    image: bytes | None
    captions: list[str]


def read(config: PairsConfig, raw: Path, content: bool = True) -> Iterator[Pair]:
    """Return the pairs of a source, with ascending paths.

    Args:
        raw: Folder that relative paths start from.
        content: Read the images; otherwise their bytes are empty. Images of the hub are always read.

    Raises:
        SchemaError: If the source is missing or damaged, or a column is not found.
    """
    samples = _samples(config, raw, content)
    return _from_folder(config, raw / config.path, content) if samples is None else _of_samples(samples)


def _samples(config: PairsConfig, raw: Path, content: bool) -> Iterator[ShardSample] | None:
    """Return the samples of a source, None for a folder of images."""
    if config.path.startswith(shards.HUB):
        return shards.from_hub(config)
    found = shards.files(config.path, raw)
    return None if found is None else shards.read(config, found, content)


def _of_samples(samples: Iterable[ShardSample]) -> Iterator[Pair]:
    for number, sample in enumerate(samples):
        yield Pair(sample.key or str(number), f"{number:09}{sample.suffix}", sample.image, sample.captions)


def _captions(config: PairsConfig, folder: Path) -> dict[str, list[str]]:
    """Return the captions of the images of a folder, by path in ascending order."""
    captions: dict[str, list[str]] = {}
    for row in photo_folder.rows(folder, config.image, config.caption):
        captions.setdefault(row["image"], []).append(row["caption"])
    return dict(sorted(captions.items()))


def _from_folder(config: PairsConfig, folder: Path, content: bool) -> Iterator[Pair]:
    for path, captions in _captions(config, folder).items():
        image: bytes | None = None  # `albef inspect` reports it
        if os.path.isfile(folder / path):
            with contextlib.suppress(ImageError):
                image = read_bytes(folder / path) if content else b""
        yield Pair(path, path, image, captions)


def split_of(key: str, val: float, test: float) -> str:
    """Return ``train``, ``val`` or ``test``, by the hash of the key.

    It depends on nothing else: more data change no split.
    """
    place = place_of(key)
    return "test" if place < test else "val" if place < test + val else "train"


def convert(config: PairsConfig, raw: Path, out: Path, max_side: int | None, work: Path) -> dict[str, Any]:
    """Write the lists ``pretrain`` and ``retrieval_*``, and the images.

    Images of a folder are written in parts; see `albef.datasets.image_parts`.

    Args:
        raw: Folder that relative paths start from.
        out: Folder to write.
        max_side: Longer side, in pixels, that larger images are shrunk to.
        work: Folder for images of a folder until all are written, from which an interrupted run goes on.

    Returns:
        The manifest. Rows of the source without an image are left out and counted as ``without_image``.

    Raises:
        SchemaError: If there is no image; see also `read`.
    """
    samples = _samples(config, raw, content=True)
    if samples is not None:
        return write(config, _of_samples(samples), out, max_side)
    folder = raw / config.path
    captions = _captions(config, folder)
    found = [path for path in captions if os.path.isfile(folder / path) and os.access(folder / path, os.R_OK)]
    _check_count(config, len(found), missing := len(captions) - len(found))
    images = image_parts.write(((path, True) for path in found), folder, max_side, work, out / IMAGE_FOLDER)
    with tables.ListWriter(out) as writer:
        for row, path in enumerate(found):
            _add(config, writer, Pair(path, path, None, captions[path]), row)
    return {"source": "pairs", **writer.manifest(), "images": images, "without_image": missing}


def write(config: PairsConfig, pairs: Iterable[Pair], out: Path, max_side: int | None) -> dict[str, Any]:
    """Write pairs that are read one after another; see `convert`."""
    missing = 0

    def content(pair: Pair) -> bytes | None:
        return pair.image if pair.image is None or max_side is None else tables.shrink(pair.image, max_side)

    with tables.Writer(out) as writer:
        for pair, image in tables.in_threads(content, Progress(pairs, description="pairs", unit="images")):
            if image is None:
                missing += 1
                continue
            _add(config, writer, pair, writer.image(pair.path, image))
    _check_count(config, writer.images.rows, missing)
    return {"source": "pairs", **writer.manifest(), "without_image": missing}


def _check_count(config: PairsConfig, images: int, missing: int) -> None:
    if not images:
        raise SchemaError(f"prepare.pairs.path: {config.path}: no image, and {missing} captions of missing images")


def _add(config: PairsConfig, writer: tables.ListWriter, pair: Pair, row: int) -> None:
    """Add the records of an image, which is a row of the tables."""
    split = split_of(pair.key, config.val, config.test)
    if split != "train":
        writer.record(f"retrieval_{split}", {"image": pair.path, "caption": pair.captions}, [row])
        return
    caption = pair.captions[0] if len(pair.captions) == 1 else pair.captions
    writer.record("pretrain", {"image": pair.path, "caption": caption}, [row])
    for text in pair.captions:
        writer.record("retrieval_train", {"image": pair.path, "caption": text, "image_id": row}, [row])
