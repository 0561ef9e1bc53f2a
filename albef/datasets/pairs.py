"""Image-text pairs of common sources, as tables.

Sources are a folder of images with captions, WebDataset and Parquet files as img2dataset writes them, and data sets of
the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from albef.config import PairsConfig
from albef.data.images import ImageError, read_bytes
from albef.data.schema import SchemaError
from albef.data.shards import place_of
from albef.datasets import photo_folder, tables

HUB = "hub:"
IMAGE_COLUMNS = ("image", "jpg", "png", "jpeg", "webp")
CAPTION_COLUMNS = ("caption", "text", "txt", "captions", "sentences", "description")
_SHARDS = {".tar": "webdataset", ".parquet": "parquet"}


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


def shards(path: str, raw: Path) -> tuple[str, list[str]] | None:
    """Return the format and the files of a source of shards, or None for a folder of images.

    Args:
        path: As in `PairsConfig`: a file, a folder or a pattern such as ``shards/*.tar``.
        raw: Folder that relative paths start from.

    Raises:
        SchemaError: If nothing is there, or files of both formats.
    """
    place = raw / path
    if place.is_dir():
        files = sorted(file for suffix in _SHARDS for file in place.rglob(f"*{suffix}"))
        if not files:
            return None
    elif place.is_file():
        files = [place]
    else:
        base = Path(place.anchor) if place.is_absolute() else Path()
        files = sorted(base.glob(str(place.relative_to(base)))) if "*" in path else []
    kinds = {_SHARDS.get(file.suffix, "") for file in files}
    if len(kinds) != 1 or "" in kinds:
        found = ", ".join(sorted({file.suffix or file.name for file in files})) or "nothing"
        raise SchemaError(
            f"prepare.pairs.path: {place}: found {found}; expected a folder of images, or .tar or .parquet files"
        )
    return kinds.pop(), [str(file) for file in files]


def read(config: PairsConfig, raw: Path) -> Iterator[Pair]:
    """Yield the pairs of a source, with ascending paths.

    Raises:
        SchemaError: If the source is missing, or a column is not found.
    """
    if config.path.startswith(HUB):
        yield from _stream(config, config.path.removeprefix(HUB), split=config.split)
    elif (found := shards(config.path, raw)) is not None:
        kind, files = found
        yield from _stream(config, kind, data_files=files, split="train")
    else:
        folder = raw / config.path
        captions: dict[str, list[str]] = {}
        for row in photo_folder.rows(folder, config.image, config.caption):
            captions.setdefault(row["image"], []).append(row["caption"])
        for path in sorted(captions):
            try:
                image: bytes | None = read_bytes(folder / path)
            except ImageError:
                image = None  # `albef validate` reports it
            yield Pair(path, path, image, captions[path])


def _stream(config: PairsConfig, source: str, **options: Any) -> Iterator[Pair]:
    """Read shards or a data set of the hub row by row."""
    import datasets

    try:
        rows = datasets.load_dataset(source, streaming=True, **options).decode(False)
        columns = list(rows.column_names or next(iter(rows), {}))
    except Exception as error:  # networks, formats and missing data sets raise different types
        raise SchemaError(f"prepare.pairs.path: {config.path}: cannot be read ({error})") from error
    image = photo_folder.column(columns, config.image, IMAGE_COLUMNS, "image", config.path)
    caption = photo_folder.column(columns, config.caption, CAPTION_COLUMNS, "caption", config.path)
    for number, row in enumerate(rows):
        content = row[image]
        data = content.get("bytes") if isinstance(content, dict) else content
        texts = row[caption] if isinstance(row[caption], list) else [row[caption]]
        name = content.get("path") or "" if isinstance(content, dict) else ""
        suffix = PurePosixPath(name).suffix or f".{image}" if image != "image" else PurePosixPath(name).suffix
        key = str(row.get("__key__") or row.get("key") or number)
        yield Pair(key, f"{number:09}{suffix}", data, [text if isinstance(text, str) else "" for text in texts])


def split_of(key: str, val: float, test: float) -> str:
    """Return ``train``, ``val`` or ``test``; it depends on the key alone, so that more data change no split."""
    place = place_of(key)
    return "test" if place < test else "val" if place < test + val else "train"


def write(config: PairsConfig, pairs: Iterable[Pair], out: Path, max_side: int | None) -> dict[str, Any]:
    """Write the lists ``pretrain`` and ``retrieval_*``, and the images.

    Args:
        max_side: Longer side, in pixels, that larger images are shrunk to.

    Returns:
        The manifest. Rows of the source without an image are left out and counted as ``without_image``.
    """
    missing = 0
    with tables.Writer(out) as writer:
        for pair in tqdm(pairs, desc="pairs", unit="image", disable=None):
            if pair.image is None:
                missing += 1
                continue
            image = pair.image if max_side is None else tables.shrink(pair.image, max_side)
            row = writer.image(pair.path, image)
            split = split_of(pair.key, config.val, config.test)
            if split != "train":
                writer.record(f"retrieval_{split}", {"image": pair.path, "caption": pair.captions}, [row])
                continue
            caption = pair.captions[0] if len(pair.captions) == 1 else pair.captions
            writer.record("pretrain", {"image": pair.path, "caption": caption}, [row])
            for text in pair.captions:
                writer.record("retrieval_train", {"image": pair.path, "caption": text, "image_id": row}, [row])
    return {"source": "pairs", **writer.manifest(), "without_image": missing}
